#include <pybind11/stl.h>

#include <chrono>
#include <cmath>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "bindings/source.hpp"
#include "bindings/text.hpp"
#include "source/socket/page_exporter.hpp"
#include "source/socket/socket_address.hpp"
#include "source/socket/socket_source.hpp"

// GIL and locking: connections and exporters take C++ locks, so every call into them releases the GIL first; results
// become Python objects after it was taken again. Their threads never see Python: a source that is written in Python
// answers them from its own.
namespace vmthaw::bindings {
namespace {

std::uint64_t duration_ns(double seconds, const char* what) {
    constexpr double kLongest = 1e9;
    if (!(seconds > 0)) {
        throw ArgumentError(std::string(what) + " must be a number of seconds, more than 0");
    }
    return static_cast<std::uint64_t>(std::ceil(std::min(seconds, kLongest) * 1e9));
}

std::shared_ptr<SocketSource> open_socket(const std::string& address, std::uint64_t size, std::uint64_t ram_start,
                                          std::uint64_t page_size, std::size_t connections, std::size_t max_in_flight,
                                          double timeout, const std::optional<std::vector<ExtentRow>>& extents) {
    const SocketSourceOptions options{
        ram_start, page_size, connections, max_in_flight, duration_ns(timeout, "timeout"), extents_of(extents)};
    const py::gil_scoped_release release;
    return std::make_shared<SocketSource>(SocketAddress::parse(address), size, options);
}

py::dict source_stats(const SocketSource& source) {
    PageConnectionStats stats;
    {
        const py::gil_scoped_release release;
        stats = source.stats();
    }
    py::dict result;
    result["pages"] = stats.pages;
    result["repeated"] = stats.repeated;
    result["connections"] = stats.connections;
    result["lost"] = stats.lost;
    return result;
}

std::unique_ptr<PageExporter> make_exporter(const std::shared_ptr<PageSource>& source, const std::string& address,
                                            std::uint64_t max_page_size, std::size_t max_clients, double send_timeout,
                                            double idle_timeout, unsigned mode) {
    PageExporterOptions options;
    options.max_page_size = max_page_size;
    options.max_clients = max_clients;
    options.send_timeout_ns = duration_ns(send_timeout, "send_timeout");
    options.idle_timeout_ns = duration_ns(idle_timeout, "idle_timeout");
    options.mode = mode;
    const py::gil_scoped_release release;
    return std::make_unique<PageExporter>(source, SocketAddress::parse(address), options);
}

py::dict exporter_stats(const PageExporter& exporter) {
    PageExporterStats stats;
    {
        const py::gil_scoped_release release;
        stats = exporter.stats();
    }
    py::dict result;
    result["clients"] = stats.clients;
    result["accepted"] = stats.accepted;
    result["turned_away"] = stats.turned_away;
    result["pages"] = stats.pages;
    result["bytes"] = stats.bytes;
    result["bad_requests"] = stats.bad_requests;
    result["source_errors"] = stats.source_errors;
    result["slow_clients"] = stats.slow_clients;
    return result;
}

}  // namespace

void register_socket_source(py::module_& module) {
    module.def(
        "parse_socket_address",
        [](const std::string& address) { return text_of(SocketAddress::parse(address).text()); }, py::arg("address"),
        "The canonical text of a page server's address: unix:/path, unix:@name, tcp:host:port. A bare absolute path is "
        "a UNIX socket. Raises VmthawValueError.");
    py::classh<SocketSource, PageSource>(module, "SocketSource", py::release_gil_before_calling_cpp_dtor(),
                                         "The core's half of vmthaw.SocketSource.")
        .def(py::init(&open_socket), py::arg("address"), py::arg("size"), py::kw_only(), py::arg("ram_start") = 0,
             py::arg("page_size") = 4096, py::arg("connections") = 4, py::arg("max_in_flight") = 128,
             py::arg("timeout") = 10.0, py::arg("extents") = py::none(),
             "Connects to `address` (unix:/path, unix:@name, tcp:host:port). The wire has no hello: `size` says how "
             "many bytes the memory has, and `ram_start` (a multiple of 4096) which guest-physical address is its "
             "first; offsets are those addresses. `page_size` is what one request asks for (a power of two from 4096 "
             "to 1 GiB; give 2 MiB for huge pages), `max_in_flight` how many requests wait on a connection, "
             "`connections` how many are made when readers come at once. A read fails when no page came for `timeout` "
             "seconds; until then what was unanswered is asked again over new connections, after pauses of at most one "
             "second and an eighth of `timeout`. `extents`: None, or rows (offset, size, kind) that cover the memory. "
             "Raises SourceOpenError or VmthawValueError. The GIL is released.")
        .def_property_readonly(
            "address", [](const SocketSource& source) { return text_of(source.address().text()); },
            "The canonical text of the address.")
        .def_property_readonly("stats", &source_stats,
                               "A dict: pages that came, requests repeated after a connection was lost, connections "
                               "made, connections lost. The GIL is released.");
    py::classh<PageExporter>(module, "PageExporter", py::release_gil_before_calling_cpp_dtor(),
                             "The core's half of vmthaw.PageExporter.")
        .def(py::init(&make_exporter), py::arg("source"), py::arg("address"), py::arg("max_page_size"),
             py::arg("max_clients"), py::arg("send_timeout"), py::arg("idle_timeout"), py::arg("mode"),
             "Listens. Times in seconds. Raises VmthawValueError or an OSError. The GIL is released.")
        .def_property_readonly(
            "address", [](const PageExporter& exporter) { return text_of(exporter.address().text()); },
            "Where it listens, with the port that the kernel chose.")
        .def_property_readonly("stats", &exporter_stats,
                               "A dict: clients that are here now, accepted, turned_away (max_clients), pages and "
                               "bytes sent, bad_requests, source_errors, slow_clients (dropped). The GIL is released. "
                               "Raises ForkedError.")
        .def_property_readonly("closed", py::cpp_function(&PageExporter::closed, ReleaseGil()),
                               "True after close(). The GIL is released. Raises ForkedError.")
        .def_property_readonly("inherited", &PageExporter::inherited, "True in a child that got it by fork().")
        .def(
            "close",
            [](PageExporter& exporter, double patience) {
                return exporter.close(std::chrono::milliseconds(duration_ns(patience, "patience") / 1'000'000));
            },
            py::arg("patience"), ReleaseGil(),
            "Ends it; False when a thread is still inside the source after `patience` seconds. Idempotent. The GIL is "
            "released.");
}

}  // namespace vmthaw::bindings
