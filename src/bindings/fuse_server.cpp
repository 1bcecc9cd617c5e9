#include "fuse/fuse_server.hpp"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <chrono>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "bindings/bindings.hpp"
#include "bindings/text.hpp"
#include "bindings/wait.hpp"

// GIL and locking: everything that mounts, waits or takes a lock runs with the GIL released. A file system in Python
// takes it by itself, on the thread that called serve().
namespace vmthaw::bindings {
namespace {

std::uint64_t cache_ns(double seconds, const char* name) {
    constexpr double kLongestS = 1e9;
    constexpr double kNanosecondsInOne = 1e9;
    if (!(seconds >= 0 && seconds <= kLongestS)) {
        throw ArgumentError(std::string(name) + " must be from 0 to 1e9 seconds");
    }
    return static_cast<std::uint64_t>(seconds * kNanosecondsInOne);
}

std::chrono::milliseconds patience_of(double seconds) {
    constexpr double kLongestS = 86400;
    constexpr double kMilliseconds = 1000;
    if (!(seconds >= 0 && seconds <= kLongestS)) {
        throw ArgumentError("the time-out must be from 0 to 86400 seconds");
    }
    return std::chrono::milliseconds(static_cast<std::int64_t>(std::ceil(seconds * kMilliseconds)));
}

std::shared_ptr<FuseServer> make_fuse_server(std::shared_ptr<FileSystem> file_system,
                                             const std::filesystem::path& mount_point, const std::string& fsname,
                                             bool read_only, bool allow_other, bool default_permissions, bool set_uid,
                                             bool devices, bool nonempty, double entry_timeout, double attr_timeout,
                                             std::uint32_t max_write, bool splice) {
    const FuseDispatcherConfig config{.entry_ttl_ns = cache_ns(entry_timeout, "entry_timeout"),
                                      .attr_ttl_ns = cache_ns(attr_timeout, "attr_timeout"),
                                      .max_write_bytes = max_write};
    const FuseMountOptions options{.fsname = fsname,
                                   .read_only = read_only,
                                   .allow_other = allow_other,
                                   .default_permissions = default_permissions,
                                   .set_uid = set_uid,
                                   .devices = devices,
                                   .allow_nonempty = nonempty};
    const py::gil_scoped_release release;
    auto dispatcher = std::make_shared<FuseDispatcher>(std::move(file_system), config);
    return std::make_shared<FuseServer>(std::move(dispatcher), mount_point.string(), options, splice);
}

py::dict server_stats(const FuseServer& server) {
    FuseServerStats stats;
    {
        const py::gil_scoped_release release;
        stats = server.stats();
    }
    py::dict result;
    result["requests"] = stats.requests;
    result["replies"] = stats.replies;
    result["spliced"] = stats.spliced;
    result["unwanted"] = stats.unwanted;
    result["refused"] = stats.refused;
    result["readers"] = stats.readers;
    return result;
}

}  // namespace

void register_fuse_server(py::module_& module) {
    py::class_<FuseServer, std::shared_ptr<FuseServer>>(module, "FuseServerCore",
                                                        py::release_gil_before_calling_cpp_dtor(),
                                                        "What vmthaw.fuse.FuseServer stands on. Mounts when made.")
        .def(py::init(&make_fuse_server), py::arg("file_system"), py::arg("mount_point"), py::kw_only(),
             py::arg("fsname"), py::arg("read_only"), py::arg("allow_other"), py::arg("default_permissions"),
             py::arg("set_uid"), py::arg("devices"), py::arg("nonempty"), py::arg("entry_timeout"),
             py::arg("attr_timeout"), py::arg("max_write"), py::arg("splice"))
        .def("start", &FuseServer::start, py::arg("threads"), ReleaseGil(), "Starts C++ readers, 1 to 256.")
        .def("serve", &FuseServer::serve, ReleaseGil(), "A reader on this thread, until the unmount.")
        .def(
            "stop", [](FuseServer& server, double timeout) { return server.stop(patience_of(timeout)); },
            py::arg("timeout"), ReleaseGil(), "Unmounts; False when a reader is still in the middle of a request.")
        .def(
            "wait",
            [](FuseServer& server, std::optional<double> timeout) {
                return wait_interruptible(timeout, [&](std::chrono::milliseconds slice) { return server.wait(slice); });
            },
            py::arg("timeout") = py::none(), "True when it has been unmounted and the last reader has left.")
        .def_property_readonly("serving", py::cpp_function(&FuseServer::serving, ReleaseGil()),
                               "Whether a reader reads.")
        .def_property_readonly(
            "mount_point", [](FuseServer& server) { return text_of(server.mount().mount_point()); },
            "The directory, absolute and without links.")
        .def_property_readonly(
            "device_minor", [](FuseServer& server) { return server.mount().device_minor(); },
            "The minor number of st_dev there (the major is 0).")
        .def_property_readonly(
            "by_fusermount", [](FuseServer& server) { return server.mount().by_fusermount(); },
            "Whether fusermount3 has mounted it.")
        .def("stats", &server_stats, "Counters, by name.");
}

}  // namespace vmthaw::bindings
