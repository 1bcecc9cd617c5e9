# The core for aarch64 on another machine, by Debian's cross compiler. Programs are linked statically: qemu-aarch64-static
# and the virtual machine for aarch64 run them as they are.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc) # GoogleTest wants one
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_ASM_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_EXE_LINKER_FLAGS_INIT -static)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64-static)
# This machine's libraries and packages are another processor's.
set(CMAKE_FIND_ROOT_PATH /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
# Headers alone are nobody's: links to these, without the rest of their directory, which belongs to this machine's C library.
set(VMTHAW_HEADERS ${CMAKE_CURRENT_LIST_DIR}/../build/aarch64-headers)
file(MAKE_DIRECTORY ${VMTHAW_HEADERS})
foreach(name spdlog fmt nlohmann lz4.h lz4frame.h zstd.h zstd_errors.h)
  file(CREATE_LINK /usr/include/${name} ${VMTHAW_HEADERS}/${name} SYMBOLIC)
endforeach()
# Archives of that processor, unpacked by tests/vm/run_in_vm --fetch aarch64.
if(DEFINED ENV{VMTHAW_VM_CACHE})
  set(vm_cache $ENV{VMTHAW_VM_CACHE})
else()
  set(vm_cache ${CMAKE_CURRENT_LIST_DIR}/../build/vm)
endif()
set(VMTHAW_LIBRARIES ${vm_cache}/aarch64/compression/usr/lib/aarch64-linux-gnu)
set(VMTHAW_GOOGLETEST /usr/src/googletest)
