# Warnings are errors in everything of ours; sanitizers, where asked for, in everything that is linked together, and
# each of their findings ends the program.
add_library(vmthaw_warnings INTERFACE)
target_compile_options(vmthaw_warnings INTERFACE -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror)
if(VMTHAW_SANITIZE)
  add_compile_options(-fsanitize=${VMTHAW_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${VMTHAW_SANITIZE})
endif()
