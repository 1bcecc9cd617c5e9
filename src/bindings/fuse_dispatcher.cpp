#include "fuse/fuse_dispatcher.hpp"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.hpp"
#include "bindings/bindings.hpp"
#include "bindings/buffer_view.hpp"
#include "fuse/dax_session_target.hpp"

// GIL and locking: a request is served with the GIL released; a file system in Python takes it again by itself.
namespace vmthaw::bindings {
namespace {

std::uint64_t ttl_ns(double seconds, const char* name) {
    constexpr double longest_s = 1e9;
    constexpr double second_ns = 1e9;
    if (!(seconds >= 0 && seconds <= longest_s)) {
        throw ArgumentError(std::string(name) + " must be from 0 to 1e9 seconds");
    }
    return static_cast<std::uint64_t>(seconds * second_ns);
}

std::shared_ptr<FuseDispatcher> make_dispatcher(std::shared_ptr<FileSystem> file_system, std::uint32_t max_write,
                                                double entry_timeout, double attr_timeout,
                                                std::shared_ptr<DaxSession> dax, std::shared_ptr<DaxDecisions> policy) {
    if (policy && !dax) {
        throw ArgumentError("a policy is about the mappings of `dax`, which is not given");
    }
    std::shared_ptr<DaxTarget> target;
    if (dax) {
        target = std::make_shared<DaxSessionTarget>(std::move(dax), std::move(policy));
    }
    FuseDispatcherConfig config;
    config.max_write_bytes = max_write;
    config.entry_ttl_ns = ttl_ns(entry_timeout, "entry_timeout");
    config.attr_ttl_ns = ttl_ns(attr_timeout, "attr_timeout");
    return std::make_shared<FuseDispatcher>(std::move(file_system), config, std::move(target));
}

std::optional<py::bytes> dispatch(FuseDispatcher& dispatcher, const py::object& request) {
    const BufferView view(request);
    std::vector<std::byte> reply(dispatcher.max_reply_bytes());
    std::size_t size = 0;
    {
        const py::gil_scoped_release release;
        size = dispatcher.dispatch(view.bytes(), reply);
    }
    if (size == 0) {
        return std::nullopt;
    }
    return py::bytes(reinterpret_cast<const char*>(reply.data()), size);
}

}  // namespace

void register_fuse_dispatcher(py::module_& module) {
    py::classh<FuseDispatcher>(module, "FuseDispatcher", py::release_gil_before_calling_cpp_dtor(),
                               R"(Answers FUSE requests, bytes with bytes, for a transport of one's own (a virtqueue).

`max_write` bytes at most in a write or a read, a multiple of 4096 up to 1 MiB; `entry_timeout` and `attr_timeout` seconds
are what the client may cache. `dax`, a session whose backend is the file system, answers SETUPMAPPING and REMOVEMAPPING
(ENOSYS without one); `policy`, a DaxPolicy, says which files are mapped, all without one. Any thread, several at once. Raises VmthawValueError.)")
        .def(py::init(&make_dispatcher), py::arg("file_system"), py::kw_only(), py::arg("max_write") = 1U << 20U,
             py::arg("entry_timeout") = 1.0, py::arg("attr_timeout") = 1.0, py::arg("dax") = py::none(),
             py::arg("policy") = py::none())
        .def("dispatch", &dispatch, py::arg("request"),
             "The reply to one whole request, or None where FUSE has none (a forget, an interrupt, no request at all). "
             "The GIL is released meanwhile. Raises TypeError or BufferError when `request` is no contiguous bytes.")
        .def("reset", &FuseDispatcher::reset, ReleaseGil(),
             "The client has gone without DESTROY: look-ups and handles are let go. Waits for requests being served.")
        .def_property_readonly("initialized", &FuseDispatcher::initialized, "Whether a client is there (INIT).")
        .def_property_readonly("requests", &FuseDispatcher::requests, "Requests that came.")
        .def_property_readonly("malformed", &FuseDispatcher::malformed,
                               "Those of them that did not hold together and reached no file system.");
}

}  // namespace vmthaw::bindings
