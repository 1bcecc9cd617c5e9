# vmthaw_room(NAME [ROOM ...]): the static library vmthaw_NAME from src/NAME and the directories in it, standing on the
# rooms named.
function(vmthaw_room name)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/src/${name}/*.cpp
       ${CMAKE_CURRENT_SOURCE_DIR}/src/${name}/*/*.cpp)
  list(TRANSFORM ARGN PREPEND vmthaw_)
  if(sources)
    add_library(vmthaw_${name} STATIC ${sources})
    target_include_directories(vmthaw_${name} PUBLIC ${CMAKE_CURRENT_SOURCE_DIR}/src)
    # Half of a file's compile time is the headers that its neighbours read too: several at once.
    set_target_properties(vmthaw_${name} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 24)
    target_link_libraries(vmthaw_${name} PUBLIC ${ARGN} PRIVATE $<BUILD_INTERFACE:vmthaw_warnings>)
  else()
    add_library(vmthaw_${name} INTERFACE)
    target_include_directories(vmthaw_${name} INTERFACE ${CMAKE_CURRENT_SOURCE_DIR}/src)
    target_link_libraries(vmthaw_${name} INTERFACE ${ARGN})
  endif()
endfunction()
