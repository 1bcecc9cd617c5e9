# spdlog, fmt and nlohmann-json, header-only: from the distribution's packages, or, where their include directory must
# not be on the path (a wheel is compiled against another C library), from a directory that holds nothing but these.
set(VMTHAW_HEADERS "" CACHE PATH "directory with spdlog/, fmt/ and nlohmann/ and nothing else; empty: find_package")

set(VMTHAW_GOOGLETEST "" CACHE PATH "GoogleTest's sources, to build it for another processor; empty: find_package")

find_package(Threads REQUIRED)
if(VMTHAW_HEADERS)
  foreach(target spdlog::spdlog_header_only fmt::fmt-header-only nlohmann_json::nlohmann_json)
    add_library(${target} INTERFACE IMPORTED)
    set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES ${VMTHAW_HEADERS})
  endforeach()
  set_target_properties(fmt::fmt-header-only PROPERTIES INTERFACE_COMPILE_DEFINITIONS FMT_HEADER_ONLY=1)
  set_target_properties(spdlog::spdlog_header_only PROPERTIES
    INTERFACE_COMPILE_DEFINITIONS SPDLOG_FMT_EXTERNAL INTERFACE_LINK_LIBRARIES fmt::fmt-header-only)
else()
  find_package(nlohmann_json 3.11 REQUIRED)
  find_package(fmt REQUIRED)
  find_package(spdlog REQUIRED)
endif()

if(VMTHAW_TESTS)
  if(VMTHAW_GOOGLETEST)
    # Where no package of it is for the processor that is built for.
    set(BUILD_GMOCK OFF)
    set(INSTALL_GTEST OFF)
    add_subdirectory(${VMTHAW_GOOGLETEST} ${CMAKE_BINARY_DIR}/googletest EXCLUDE_FROM_ALL SYSTEM)
  else()
    find_package(GTest REQUIRED)
  endif()
endif()
