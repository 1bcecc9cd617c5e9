# Compiles with the clang, libc++ and C library stubs of the `ziglang` package, so that the result asks for an old glibc
# and brings its C++ library along. scripts/wheel writes the wrapper programs into build/zig.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR ${CMAKE_HOST_SYSTEM_PROCESSOR})
get_filename_component(VMTHAW_ZIG ${CMAKE_CURRENT_LIST_DIR}/../build/zig ABSOLUTE)
set(CMAKE_C_COMPILER ${VMTHAW_ZIG}/cc)
set(CMAKE_CXX_COMPILER ${VMTHAW_ZIG}/c++)
set(CMAKE_AR ${VMTHAW_ZIG}/ar CACHE FILEPATH "" FORCE)
set(CMAKE_RANLIB ${VMTHAW_ZIG}/ranlib CACHE FILEPATH "" FORCE)
