#include "filesystem/file_system.hpp"

#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>

#include "bindings/bindings.hpp"
#include "filesystem/memory_fs.hpp"

// GIL and locking: counts take a file system's lock, so the GIL is released before.
namespace vmthaw::bindings {

void register_file_system(py::module_& module) {
    py::classh<FileSystem, DaxBackend>(module, "FileSystem", py::release_gil_before_calling_cpp_dtor(),
                                       "What a FuseServer serves. Every method may be called from any thread.")
        .def_property_readonly("held_nodes", py::cpp_function(&FileSystem::held_nodes, ReleaseGil()),
                               "Files that the client knows, the root not counted; 0 after the unmount.")
        .def_property_readonly("open_handles", py::cpp_function(&FileSystem::open_handles, ReleaseGil()),
                               "Files and directories that the client has open; 0 after the unmount.")
        .def_property_readonly("takes_gil", &FileSystem::takes_gil, "True when it is written in Python.");
    py::classh<MemoryFs, FileSystem>(module, "MemoryFs", py::release_gil_before_calling_cpp_dtor(),
                                     R"(Files in this process's memory; they go with the object.

`capacity` bytes of pages and extended attributes (0: half of the machine's memory) and `max_files` names, ENOSPC beyond.
`root_uid`, `root_gid` and `root_mode` are the root directory's. Raises VmthawValueError.)")
        .def(py::init([](std::uint64_t capacity, std::uint64_t max_files, std::uint32_t root_uid,
                         std::uint32_t root_gid, std::uint32_t root_mode) {
                 return std::make_shared<MemoryFs>(MemoryFsConfig{.capacity_bytes = capacity,
                                                                  .max_files = max_files,
                                                                  .root_uid = root_uid,
                                                                  .root_gid = root_gid,
                                                                  .root_mode = root_mode});
             }),
             py::kw_only(), py::arg("capacity") = 0, py::arg("max_files") = 1U << 20U, py::arg("root_uid") = 0,
             py::arg("root_gid") = 0, py::arg("root_mode") = 0755)
        .def("__repr__", [](const MemoryFs&) { return "<MemoryFs>"; });
}

}  // namespace vmthaw::bindings
