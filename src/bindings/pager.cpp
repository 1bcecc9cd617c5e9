#include <pybind11/native_enum.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "bindings/bindings.hpp"
#include "bindings/text.hpp"
#include "pager/memory_layout.hpp"
#include "pager/pager.hpp"
#include "pager/pager_config.hpp"
#include "pager/pager_stats.hpp"
#include "pager/region.hpp"

// GIL and locking: serve_fault may wait for its source and so runs with the GIL released; plain values keep it.
namespace vmthaw::bindings {
namespace {

constexpr double kNanoseconds = 1e9;

std::uint64_t to_ns(double seconds, const char* name) {
    constexpr double kLongestS = 1e9;
    if (!(seconds >= 0 && seconds <= kLongestS)) {
        throw ArgumentError(std::string(name) + " must be from 0 to 1e9 seconds");
    }
    return static_cast<std::uint64_t>(seconds * kNanoseconds);
}

double to_s(std::uint64_t duration_ns) { return static_cast<double>(duration_ns) / kNanoseconds; }

void register_region(py::module_& module) {
    py::class_<Region>(module, "Region", R"(A run of guest memory as the VMM mapped it; all in bytes. A plain value.

`host_address` in the VMM's address space, `guest_address` guest physical, `source_offset` of its first byte in the page
source, `page_size` a power of two (a session serves 4096 and 2097152). Checked where it is used, not here.)")
        .def(py::init([](std::uint64_t host_address, std::uint64_t guest_address, std::uint64_t size,
                         std::uint64_t source_offset, std::uint64_t page_size) {
                 return Region{host_address, guest_address, size, source_offset, page_size};
             }),
             py::kw_only(), py::arg("host_address"), py::arg("guest_address"), py::arg("size"),
             py::arg("source_offset") = 0, py::arg("page_size") = 4096)
        .def_readonly("host_address", &Region::host_address)
        .def_readonly("guest_address", &Region::guest_address)
        .def_readonly("size", &Region::size)
        .def_readonly("source_offset", &Region::source_offset)
        .def_readonly("page_size", &Region::page_size)
        .def(
            "__eq__", [](const Region& a, const Region& b) { return a == b; }, py::is_operator())
        .def("__hash__", [](const Region& region) { return py::hash(py::int_(region.host_address)); })
        .def("__repr__", [](const Region& region) { return "<" + describe(region) + ">"; });
    module.def(
        "check_regions",
        [](std::vector<Region> regions, const PageSource* source) { return check_regions(std::move(regions), source); },
        py::arg("regions"), py::arg("source") = nullptr,
        "Checks alignment, overflow, overlap and coverage by `source`; gives the regions sorted by host address.\n\n"
        "Raises RegionError that names the region and what is wrong with it.");
}

void register_layout(py::module_& module) {
    py::class_<MemoryLayout>(module, "MemoryLayout", R"(Where offsets of a memory file lie in guest-physical memory.

Firecracker's hand-over carries no guest address; this fills it in. A plain value.)")
        .def_static("x86_64", &MemoryLayout::x86_64, "From offset 3 GiB on, one GiB higher (Firecracker on x86-64).")
        .def_static("aarch64", &MemoryLayout::aarch64, "From guest address 2 GiB (Firecracker on aarch64).")
        .def_static("host", &MemoryLayout::host, "The one of this machine's architecture.")
        .def_static(
            "custom",
            [](const std::vector<std::tuple<std::uint64_t, std::uint64_t, std::uint64_t>>& spans) {
                std::vector<MemoryLayout::Span> list;
                for (const auto& [file_offset, guest_address, size] : spans) {
                    list.push_back({file_offset, guest_address, size});
                }
                return MemoryLayout::custom(std::move(list));
            },
            py::arg("spans"), "From (file_offset, guest_address, size) tuples. Raises VmthawValueError on overlap.")
        .def("guest_address", &MemoryLayout::guest_address, py::arg("file_offset"),
             "The guest-physical address of a file offset. Raises VmthawValueError outside every span.")
        .def("assign", &MemoryLayout::assign, py::arg("regions"),
             "Regions with guest_address filled in; one that crosses a span's end is split there.");
}

void register_config(py::module_& module) {
    py::native_enum<FillMode>(module, "FillMode", "enum.Enum", "How much to fill around a fault.")
        .value("page", FillMode::page, "The page that was asked for.")
        .value("block", FillMode::block, "The power-of-two block around the fault.")
        .value("window", FillMode::window, "A window that doubles while faults hit the page after the last fill.")
        .finalize();
    py::native_enum<FailurePolicy>(module, "FailurePolicy", "enum.Enum", "What becomes of a page that cannot be had.")
        .value("automatic", FailurePolicy::automatic, "kill where the VMM's pidfd is known, else poison.")
        .value("kill", FailurePolicy::kill, "SIGKILL to the VMM, by the pidfd taken at connect.")
        .value("poison", FailurePolicy::poison, "UFFDIO_POISON: the toucher gets SIGBUS.")
        .value("hang", FailurePolicy::hang, "Leave the toucher asleep: only for debugging.")
        .finalize();
    py::native_enum<Placement>(module, "Placement", "enum.Enum", "Which workers read a session's descriptor.")
        .value("automatic", Placement::automatic,
               "local while there are no more sessions than processors, else sharded.")
        .value("local", Placement::local, "All pinned workers: the faulter's own processor answers.")
        .value("sharded", Placement::sharded, "One pinned worker.")
        .value("pinned", Placement::pinned, "The worker of a given processor.")
        .finalize();
    py::native_enum<WorkingSetMode>(module, "WorkingSetMode", "enum.Enum", "When a recorded working set is installed.")
        .value("alongside", WorkingSetMode::alongside,
               "From the hand-over on, while the guest runs, giving way to its faults.")
        .value("before", WorkingSetMode::before, "Before the first fault is read.")
        .finalize();
    py::class_<PagerConfig>(module, "PagerConfig", R"(How a pager behaves. A plain value; times in seconds.

fill_mode and fill_bytes (a power of two, 4096 to 1 GiB): the fill planner. retries after the first try of a failing
source, retry_min to retry_max apart, jittered. failure_policy, placement and cpu (for Placement.pinned). poll_interval:
how often one session in turn is checked for lost registrations (0: never; a VM so large that reading its smaps takes
more than half a per cent of the time, seldomer). drain_timeout: how long draining may take.
max_in_flight: faults that may wait for source threads, per VM. trace_records: capacity of a session's ring of fault
records (0: none). working_set_mode: when a server's working set is installed. Raises VmthawValueError that names the field.)")
        .def(py::init([](FillMode fill_mode, std::uint64_t fill_bytes, std::uint32_t retries, double retry_min,
                         double retry_max, FailurePolicy failure_policy, Placement placement, int cpu,
                         double poll_interval, double drain_timeout, std::uint32_t max_in_flight,
                         std::uint32_t trace_records, WorkingSetMode working_set_mode) {
                 PagerConfig config{.fill_mode = fill_mode,
                                    .fill_bytes = fill_bytes,
                                    .retries = retries,
                                    .retry_min_ns = to_ns(retry_min, "retry_min"),
                                    .retry_max_ns = to_ns(retry_max, "retry_max"),
                                    .failure_policy = failure_policy,
                                    .placement = placement,
                                    .cpu = cpu,
                                    .poll_interval_ns = to_ns(poll_interval, "poll_interval"),
                                    .drain_timeout_ns = to_ns(drain_timeout, "drain_timeout"),
                                    .max_in_flight = max_in_flight,
                                    .trace_records = trace_records,
                                    .working_set_mode = working_set_mode};
                 check_config(config);
                 return config;
             }),
             py::kw_only(), py::arg("fill_mode") = FillMode::window, py::arg("fill_bytes") = 2U << 20U,
             py::arg("retries") = 3, py::arg("retry_min") = 0.05, py::arg("retry_max") = 0.5,
             py::arg("failure_policy") = FailurePolicy::automatic, py::arg("placement") = Placement::automatic,
             py::arg("cpu") = -1, py::arg("poll_interval") = 1.0, py::arg("drain_timeout") = 30.0,
             py::arg("max_in_flight") = 4096, py::arg("trace_records") = 0,
             py::arg("working_set_mode") = WorkingSetMode::alongside)
        .def_readonly("fill_mode", &PagerConfig::fill_mode)
        .def_readonly("fill_bytes", &PagerConfig::fill_bytes)
        .def_readonly("retries", &PagerConfig::retries)
        .def_readonly("failure_policy", &PagerConfig::failure_policy)
        .def_readonly("placement", &PagerConfig::placement)
        .def_readonly("cpu", &PagerConfig::cpu)
        .def_readonly("max_in_flight", &PagerConfig::max_in_flight)
        .def_readonly("trace_records", &PagerConfig::trace_records)
        .def_readonly("working_set_mode", &PagerConfig::working_set_mode)
        .def_property_readonly("retry_min", [](const PagerConfig& config) { return to_s(config.retry_min_ns); })
        .def_property_readonly("retry_max", [](const PagerConfig& config) { return to_s(config.retry_max_ns); })
        .def_property_readonly("poll_interval", [](const PagerConfig& config) { return to_s(config.poll_interval_ns); })
        .def_property_readonly("drain_timeout",
                               [](const PagerConfig& config) { return to_s(config.drain_timeout_ns); });
}

void register_stats(py::module_& module) {
    py::class_<PagerStats>(module, "PagerStats", R"(Counters of a pager, session or server at one moment. A plain value.

Pages are host pages of their region. faults counts messages, serve_fault calls and pre-warmed pages; installed holds
zero; prefetched came from a working set; redundant is EEXIST (somebody was faster); coalesced joined a fill under way; deferred was parked on EAGAIN;
forwarded are foreign faults and unknown events; source_bytes were copied from the source.)")
        .def(py::init<>())
        .def_readonly("faults", &PagerStats::faults)
        .def_readonly("prewarmed", &PagerStats::prewarmed)
        .def_readonly("installed", &PagerStats::installed)
        .def_readonly("zero", &PagerStats::zero)
        .def_readonly("fault_around", &PagerStats::fault_around)
        .def_readonly("populated", &PagerStats::populated)
        .def_readonly("prefetched", &PagerStats::prefetched)
        .def_readonly("redundant", &PagerStats::redundant)
        .def_readonly("coalesced", &PagerStats::coalesced)
        .def_readonly("retried", &PagerStats::retried)
        .def_readonly("deferred", &PagerStats::deferred)
        .def_readonly("failed", &PagerStats::failed)
        .def_readonly("removed", &PagerStats::removed)
        .def_readonly("forwarded", &PagerStats::forwarded)
        .def_readonly("reinstalls", &PagerStats::reinstalls)
        .def_readonly("overflowed", &PagerStats::overflowed)
        .def_readonly("source_bytes", &PagerStats::source_bytes)
        .def_readonly("latency_sum_ns", &PagerStats::latency_sum_ns, "All latencies added up, in ns.")
        .def_readonly("events", &PagerStats::events)
        .def("latency_ns", &PagerStats::latency_ns, py::arg("fraction"),
             "From message read to page installed: what `fraction` (0 to 1) of the faults took at most, in ns.")
        .def(
            "latency_histogram",
            [](const PagerStats& stats) {
                py::array_t<std::uint64_t> counts(static_cast<py::ssize_t>(stats.latency.size()), stats.latency.data());
                py::array_t<std::uint64_t> bounds(static_cast<py::ssize_t>(stats.latency.size()));
                for (std::size_t i = 0; i < stats.latency.size(); ++i) {
                    bounds.mutable_at(static_cast<py::ssize_t>(i)) = LatencyHistogram::lower_bound_ns(i);
                }
                return py::make_tuple(bounds, counts);
            },
            "(lower bounds in ns, counts): two numpy arrays of one length.")
        .def(
            "__add__", [](PagerStats a, const PagerStats& b) { return a += b; }, py::is_operator())
        .def("_repr_html_", [](const py::object& self) { return html_of(self, "stats_html"); })
        .def("__repr__", [](const PagerStats& stats) {
            return "<PagerStats faults=" + std::to_string(stats.faults) +
                   " installed=" + std::to_string(stats.installed) + " zero=" + std::to_string(stats.zero) +
                   " redundant=" + std::to_string(stats.redundant) + " failed=" + std::to_string(stats.failed) +
                   " p50=" + std::to_string(stats.latency_ns(0.5)) +
                   "ns p99=" + std::to_string(stats.latency_ns(0.99)) + "ns>";
        });
}

py::bytes serve_fault(Pager& pager, std::uint64_t guest_address, std::uint64_t page_size) {
    constexpr std::uint64_t kLargest = 1U << 30U;
    if (page_size > kLargest) {
        throw ArgumentError("page_size must be a power of two up to 1 GiB, got " + std::to_string(page_size));
    }
    std::vector<std::byte> page(page_size);
    {
        const py::gil_scoped_release release;
        pager.serve_fault(guest_address, page);
    }
    return {reinterpret_cast<const char*>(page.data()), page.size()};
}

}  // namespace

void register_pager(py::module_& module) {
    register_region(module);
    register_layout(module);
    register_config(module);
    register_stats(module);
    py::classh<Pager>(module, "Pager", R"(Serves guest pages by address, without a kernel fault.

`Pager(regions, source, config=PagerConfig())`. Raises RegionError for regions that overlap, are unaligned or are not
covered by the source. Safe from several threads.)")
        .def(py::init<std::vector<Region>, std::shared_ptr<PageSource>, const PagerConfig&>(), py::arg("regions"),
             py::arg("source"), py::arg("config") = PagerConfig{}, py::call_guard<py::gil_scoped_release>())
        .def("contains", &Pager::contains, py::arg("guest_address"), "True when the address is in a region.")
        .def("serve_fault", &serve_fault, py::arg("guest_address"), py::arg("page_size") = 4096,
             R"(The page of `page_size` bytes (a power of two) that holds `guest_address`, which is aligned down.

Bytes of that page outside the region are zeros. Waits for the source with the GIL released. Raises OutOfRegionError,
VmthawValueError (page_size) and PageSourceErrors.)")
        .def_property_readonly("regions", &Pager::regions, "Sorted by guest address.")
        .def_property_readonly("stats", [](Pager& pager) { return snapshot(pager.counters()); }, "A PagerStats.");
}

}  // namespace vmthaw::bindings
