#include "filesystem/passthrough_fs.hpp"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "bindings/bindings.hpp"
#include "bindings/text.hpp"

// GIL and locking: opening the directory may wait and counts take locks; the GIL is released before.
namespace vmthaw::bindings {
namespace {

using Ids = std::pair<std::uint32_t, std::uint32_t>;

std::shared_ptr<PassthroughFs> make_passthrough_fs(const std::filesystem::path& directory, bool read_only,
                                                   const std::string& owner, std::optional<Ids> squash, bool xattrs,
                                                   std::size_t max_descriptors) {
    PassthroughOptions options{.read_only = read_only, .xattrs = xattrs, .most_descriptors = max_descriptors};
    if (squash) {
        options.owner = OwnerPolicy::fixed;
        options.uid = squash->first;
        options.gid = squash->second;
    } else if (owner == "server") {
        options.owner = OwnerPolicy::server;
    } else if (owner != "caller") {
        throw ArgumentError("owner must be \"caller\" or \"server\", or give squash=(uid, gid)");
    }
    const py::gil_scoped_release release;
    return std::make_shared<PassthroughFs>(directory.string(), options);
}

}  // namespace

void register_passthrough_fs(py::module_& module) {
    py::classh<PassthroughFs, FileSystem>(module, "PassthroughFs", py::release_gil_before_calling_cpp_dtor(),
                                          R"(A directory of the host as a file system; nothing leads out of it.

New files belong to the user that makes them (`owner="caller"`, which needs root), to the server's user ("server") or to
the fixed `squash=(uid, gid)`. `read_only` refuses every change (EROFS). `xattrs` passes extended attributes but POSIX
ACLs, which are neither shown (EOPNOTSUPP) nor checked: of a file that has one on the host, the group's bits of the mode
are the ACL's mask. `max_descriptors` bounds those that known files keep open (0: half of RLIMIT_NOFILE): as root the
least recently used is closed and found again by its file handle, else one file too many is ENFILE. The server's rights
on the host count; checking the caller's is the client kernel's (FuseServer(default_permissions=True)).
Raises OSError (no directory, or Linux before 5.6) and VmthawValueError.)")
        .def(py::init(&make_passthrough_fs), py::arg("directory"), py::kw_only(), py::arg("read_only") = false,
             py::arg("owner") = "caller", py::arg("squash") = py::none(), py::arg("xattrs") = true,
             py::arg("max_descriptors") = 0)
        .def_property_readonly(
            "directory", [](const PassthroughFs& file_system) { return text_of(file_system.directory()); },
            "As it was given.")
        .def_property_readonly("open_descriptors", py::cpp_function(&PassthroughFs::open_descriptors, ReleaseGil()),
                               "Of known files, the root's counted, and of DAX leases; 1 after the unmount.")
        .def_property_readonly("leases", py::cpp_function(&PassthroughFs::leases, ReleaseGil()),
                               "DAX leases that were not given back.")
        .def_property_readonly("evicts", &PassthroughFs::evicts,
                               "Whether descriptors beyond the bound can be closed and found again.")
        .def("__repr__", [](const PassthroughFs& file_system) {
            return text_of("<PassthroughFs " + file_system.directory() + ">");
        });
}

}  // namespace vmthaw::bindings
