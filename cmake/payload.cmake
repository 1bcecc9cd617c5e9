# vmthaw_guest_payload(TARGET): compiles the guest's program for itself (other options than the rest of the build), cuts
# its .text into a flat binary, and has src/machine/payload/payload_image.cpp of TARGET embed it. On other hosts than
# x86-64 it is left out, and loading it says so.
function(vmthaw_guest_payload target)
  if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
    return()
  endif()
  set(source ${CMAKE_CURRENT_SOURCE_DIR}/src/machine/payload/guest/guest.cpp)
  set(binary ${CMAKE_CURRENT_BINARY_DIR}/guest_payload.bin)
  add_library(vmthaw_guest OBJECT ${source})
  target_include_directories(vmthaw_guest PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/src)
  target_link_libraries(vmthaw_guest PRIVATE $<BUILD_INTERFACE:vmthaw_warnings>)
  # The guest has no library (so no checks that call one), no red zone below a stack that others may use, no vector
  # registers but those that the program names.
  target_compile_options(vmthaw_guest PRIVATE
    -O2 -fno-sanitize=all -ffreestanding -fno-builtin -fPIC -mno-red-zone -mgeneral-regs-only -fno-stack-protector
    -fno-exceptions -fno-rtti -fno-asynchronous-unwind-tables -fno-unwind-tables -fno-jump-tables -fcf-protection=none
    -fno-function-sections -fno-lto -g0 -U_FORTIFY_SOURCE
    $<$<CXX_COMPILER_ID:GNU>:-fno-reorder-functions -fno-tree-loop-distribute-patterns>)
  add_custom_command(
    OUTPUT ${binary}
    COMMAND ${CMAKE_COMMAND} -DOBJECT=$<TARGET_OBJECTS:vmthaw_guest> -DBINARY=${binary} -DOBJCOPY=${CMAKE_OBJCOPY}
            -DOBJDUMP=${CMAKE_OBJDUMP} -P ${CMAKE_CURRENT_SOURCE_DIR}/cmake/cut_payload.cmake
    DEPENDS vmthaw_guest $<TARGET_OBJECTS:vmthaw_guest> ${CMAKE_CURRENT_SOURCE_DIR}/cmake/cut_payload.cmake
    VERBATIM)
  set(image ${CMAKE_CURRENT_SOURCE_DIR}/src/machine/payload/payload_image.cpp)
  add_custom_target(vmthaw_guest_binary DEPENDS ${binary})
  add_dependencies(${target} vmthaw_guest_binary)
  set_source_files_properties(${image} PROPERTIES
    COMPILE_DEFINITIONS "VMTHAW_GUEST_PAYLOAD=\"${binary}\"" OBJECT_DEPENDS ${binary})
endfunction()
