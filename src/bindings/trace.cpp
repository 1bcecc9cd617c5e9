#include <pybind11/stl.h>

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "bindings/bindings.hpp"
#include "bindings/record_array.hpp"
#include "handover/page_server.hpp"
#include "pager/pager_session.hpp"
#include "trace/fault_record.hpp"

// GIL and locking: records are taken from the ring (no lock) with the GIL released, then wrapped with it held.
namespace vmthaw::bindings {
namespace {

py::dtype record_dtype() {
    RecordDtype dtype;
    dtype.field("t_fault_ns", "<u8", offsetof(FaultRecord, t_fault_ns));
    dtype.field("t_fetched_ns", "<u8", offsetof(FaultRecord, t_fetched_ns));
    dtype.field("t_installed_ns", "<u8", offsetof(FaultRecord, t_installed_ns));
    dtype.field("guest_address", "<u8", offsetof(FaultRecord, guest_address));
    dtype.field("offset", "<u8", offsetof(FaultRecord, offset));
    dtype.field("session", "<u4", offsetof(FaultRecord, session));
    dtype.field("pages", "<u4", offsetof(FaultRecord, pages));
    dtype.field("tid", "<i4", offsetof(FaultRecord, tid));
    dtype.field("region", "<u2", offsetof(FaultRecord, region));
    dtype.field("handler", "<u2", offsetof(FaultRecord, handler));
    dtype.field("page_size_log2", "u1", offsetof(FaultRecord, page_size_log2));
    dtype.field("flags", "u1", offsetof(FaultRecord, flags));
    dtype.field("kind", "u1", offsetof(FaultRecord, kind));
    dtype.field("page_class", "u1", offsetof(FaultRecord, page_class));
    dtype.field("outcome", "u1", offsetof(FaultRecord, outcome));
    dtype.field("source", "u1", offsetof(FaultRecord, source));
    dtype.field("layer", "u1", offsetof(FaultRecord, layer));
    return dtype.make(sizeof(FaultRecord));
}

py::array take_records(PagerSession& session, std::size_t limit) {
    auto records = std::make_unique<std::vector<FaultRecord>>();
    {
        const py::gil_scoped_release release;
        if (TraceRing* ring = session.trace().ring()) {
            ring->drain(*records, limit);
        }
    }
    return record_array(std::move(records), record_dtype());
}

std::uint64_t dropped_records(PagerSession& session) {
    const py::gil_scoped_release release;
    const TraceRing* ring = session.trace().ring();
    return ring == nullptr ? 0 : ring->dropped();
}

void enable_trace(PagerSession& session, std::uint32_t records) {
    const py::gil_scoped_release release;
    check_trace_records(records);
    session.trace().enable(records);
}

}  // namespace

void register_trace(py::module_& module) {
    // PagerSession is registered with the servers that make it; what it records is told here.
    const py::object session = module.attr("PagerSession");
    session.attr("_take_records") = py::cpp_function(
        &take_records, py::name("_take_records"), py::is_method(session), py::arg("limit") = std::size_t{65536},
        "Takes at most `limit` fault records, oldest first, out of the session's ring: a structured numpy array "
        "without "
        "a copy, empty when PagerConfig.trace_records is 0. Times are CLOCK_MONOTONIC in ns, 0 for what did not "
        "happen. Safe from any thread; releases the GIL.");
    session.attr("_dropped_records") =
        py::cpp_function(&dropped_records, py::name("_dropped_records"), py::is_method(session),
                         "Records lost so far because nobody took them in time. Releases the GIL.");
    session.attr("_enable_trace") =
        py::cpp_function(&enable_trace, py::name("_enable_trace"), py::is_method(session), py::arg("records"),
                         "Records this session's faults from now on, in a ring of `records` (the first call decides). "
                         "Releases the GIL.");
    session.attr("_first_regions") =
        py::cpp_function(&PagerSession::first_regions, py::name("_first_regions"), py::is_method(session),
                         "The regions as they were at the start: a record's `region` is an index into them.");
    session.attr("_disable_trace") =
        py::cpp_function([](PagerSession& self) { self.trace().disable(); }, py::name("_disable_trace"),
                         py::is_method(session), "Ends recording; what the ring holds can still be taken.");
    session.attr("_tracing") = py::cpp_function([](PagerSession& self) { return self.trace().active() != nullptr; },
                                                py::name("_tracing"), py::is_method(session), "Whether it records.");
    const py::object server = module.attr("PageServer");
    server.attr("enable_trace") = py::cpp_function(
        &PageServer::enable_trace, py::name("enable_trace"), py::is_method(server), py::arg("records"),
        py::call_guard<py::gil_scoped_release>(), "Of all sessions, those to come included: rings of `records`.");
    server.attr("disable_trace") =
        py::cpp_function(&PageServer::disable_trace, py::name("disable_trace"), py::is_method(server),
                         py::call_guard<py::gil_scoped_release>(), "Ends it for all sessions.");
    module.def("fault_record_dtype", &record_dtype, "The numpy dtype of a FaultRecord: 64 bytes, little-endian.");
}

}  // namespace vmthaw::bindings
