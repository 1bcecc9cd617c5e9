#include <pybind11/stl.h>

#include <cmath>
#include <map>
#include <string>

#include "base/error.hpp"
#include "bindings/bindings.hpp"
#include "testing/fake_vmm.hpp"
#include "testing/memory_file.hpp"
#include "testing/textbook_loop.hpp"
#include "testing/touch_plan.hpp"
#include "testing/trace_loop.hpp"

// GIL and locking: everything that touches guest memory, a socket or a file runs with the GIL released (a page may be
// missing for ever); results are turned into Python objects with it held. FakeVmm's own lock is taken without the GIL.
namespace vmthaw::bindings {
namespace {

using namespace vmthaw::testing;

template <typename Value>
Value by_name(const std::map<std::string, Value>& names, const std::string& name, const char* what) {
    const auto found = names.find(name);
    if (found != names.end()) {
        return found->second;
    }
    std::string known;
    for (const auto& [key, value] : names) {
        known += (known.empty() ? "" : ", ") + key;
    }
    throw ArgumentError(std::string(what) + " is " + name + "; it must be one of " + known);
}

const std::map<std::string, MemoryKind> kKinds{
    {"anonymous", MemoryKind::anonymous}, {"shmem", MemoryKind::shmem}, {"hugetlb", MemoryKind::hugetlb}};
const std::map<std::string, PageSizeFields> kFields{{"both", PageSizeFields::both},
                                                    {"page_size", PageSizeFields::page_size},
                                                    {"page_size_kib", PageSizeFields::page_size_kib},
                                                    {"neither", PageSizeFields::neither}};
const std::map<std::string, SentDescriptor> kDescriptors{
    {"userfaultfd", SentDescriptor::userfaultfd}, {"none", SentDescriptor::none}, {"memfd", SentDescriptor::memfd}};
const std::map<std::string, TouchPattern> kPatterns{{"sequential", TouchPattern::sequential},
                                                    {"random", TouchPattern::random},
                                                    {"subset", TouchPattern::subset},
                                                    {"zipf", TouchPattern::zipf},
                                                    {"stride", TouchPattern::stride}};

std::uint64_t nanoseconds(double seconds) {
    if (std::isnan(seconds) || seconds < 0 || seconds >= 1e9) {
        throw ArgumentError("a time in seconds must be between 0 and 1e9");
    }
    return static_cast<std::uint64_t>(seconds * 1e9);
}

py::dict to_dict(const Findings& findings) {
    py::list mismatches;
    for (const Mismatch& mismatch : findings.mismatches) {
        py::dict entry;
        entry["page"] = mismatch.page;
        entry["host_address"] = mismatch.host_address;
        entry["byte_offset"] = mismatch.byte_offset;
        entry["found"] = mismatch.found;
        entry["expected"] = mismatch.expected;
        entry["rule"] = mismatch.rule;
        mismatches.append(entry);
    }
    py::dict result;
    result["mismatch_count"] = findings.mismatch_count;
    result["mismatches"] = mismatches;
    result["timed_out"] = findings.timed_out;
    result["stuck_pages"] = py::cast(findings.stuck_pages);
    return result;
}

std::shared_ptr<FakeVmm> make_vmm(const std::string& memory_path,
                                  const std::vector<std::pair<std::uint64_t, std::uint64_t>>& regions,
                                  const std::string& kind, std::uint64_t page_size, std::uint64_t extra_features) {
    FakeVmmConfig config;
    config.memory_path = memory_path;
    for (const auto& [size, offset] : regions) {
        config.regions.push_back({size, offset});
    }
    config.kind = by_name(kKinds, kind, "kind");
    config.page_size = page_size;
    config.extra_features = extra_features;
    return std::make_shared<FakeVmm>(config);
}

void handover(FakeVmm& vmm, const std::string& socket_path, const std::optional<std::string>& text,
              const std::string& page_size_fields, bool unknown_fields, const std::vector<std::uint64_t>& splits,
              double part_delay, std::uint64_t descriptor_part, const std::string& descriptor,
              std::uint64_t surplus_descriptors, bool close_afterwards, double timeout) {
    FakeHandoverOptions options;
    options.text = text;
    options.page_size_fields = by_name(kFields, page_size_fields, "page_size_fields");
    options.unknown_fields = unknown_fields;
    options.splits = splits;
    options.part_delay_ns = nanoseconds(part_delay);
    options.descriptor_part = descriptor_part;
    options.descriptor = by_name(kDescriptors, descriptor, "descriptor");
    options.surplus_descriptors = surplus_descriptors;
    options.close_afterwards = close_afterwards;
    options.timeout_ns = nanoseconds(timeout);
    vmm.handover(socket_path, options);
}

py::dict touch(FakeVmm& vmm, const std::vector<std::uint64_t>& plan, bool write, std::uint64_t threads,
               bool everybody_touches_all, const std::vector<int>& cpus, bool verify, double timeout) {
    const TouchOptions options{write, threads, everybody_touches_all, cpus, verify, nanoseconds(timeout)};
    TouchReport report;
    {
        const py::gil_scoped_release release;
        report = vmm.touch(plan, options);
    }
    py::dict result = to_dict(report);
    result["touches"] = report.touches;
    result["duration_ns"] = report.duration_ns;
    result["latencies_ns"] = py::bytes(reinterpret_cast<const char*>(report.latencies_ns.data()),
                                       report.latencies_ns.size() * sizeof(std::uint64_t));
    return result;
}

py::dict storm(FakeVmm& vmm, std::uint64_t removals, std::uint64_t max_pages, std::uint64_t threads, double write_share,
               std::uint64_t seed, double timeout) {
    const StormOptions options{removals, max_pages, threads, write_share, seed, nanoseconds(timeout)};
    StormReport report;
    {
        const py::gil_scoped_release release;
        report = vmm.storm(options);
    }
    py::dict result = to_dict(report);
    result["touches"] = report.touches;
    result["removals"] = report.removals;
    result["removed_pages"] = report.removed_pages;
    result["duration_ns"] = report.duration_ns;
    return result;
}

template <Findings (FakeVmm::*Call)(const FakeVmm::Ranges&, std::uint64_t)>
py::dict on_ranges(FakeVmm& vmm, const FakeVmm::Ranges& ranges, double timeout) {
    Findings findings;
    {
        const py::gil_scoped_release release;
        findings = (vmm.*Call)(ranges, nanoseconds(timeout));
    }
    return to_dict(findings);
}

py::dict verify(FakeVmm& vmm, bool only_touched, std::uint64_t threads, double timeout) {
    Findings findings;
    {
        const py::gil_scoped_release release;
        findings = vmm.verify(only_touched, threads, nanoseconds(timeout));
    }
    return to_dict(findings);
}

std::vector<std::tuple<std::uint64_t, std::uint64_t, std::uint64_t>> regions(const FakeVmm& vmm) {
    std::vector<std::tuple<std::uint64_t, std::uint64_t, std::uint64_t>> result;
    for (const FakeRegion& region : vmm.memory().regions()) {
        result.emplace_back(region.host_address, region.size, region.file_offset);
    }
    return result;
}

void register_fake_vmm(py::module_& module) {
    py::classh<FakeVmm>(
        module, "FakeVmmCore",
        "The C++ half of `vmthaw.testing.FakeVmm`: guest memory, hand-over, touches, verification. Use it "
        "in a process of its own: a page that nobody serves keeps a thread of it blocked.")
        .def(py::init(&make_vmm), py::arg("memory_path"), py::arg("regions"), py::arg("kind") = "anonymous",
             py::arg("page_size") = 4096, py::arg("extra_features") = 0, ReleaseGil(),
             "Maps `regions`, (size, file offset) pairs in bytes, and registers them with a new userfaultfd.")
        .def("handover", &handover, py::arg("socket_path"), py::kw_only(), py::arg("text") = py::none(),
             py::arg("page_size_fields") = "both", py::arg("unknown_fields") = false,
             py::arg("splits") = std::vector<std::uint64_t>(), py::arg("part_delay") = 0.0,
             py::arg("descriptor_part") = 0, py::arg("descriptor") = "userfaultfd", py::arg("surplus_descriptors") = 0,
             py::arg("close_afterwards") = false, py::arg("timeout") = 10.0, ReleaseGil(),
             "Connects and sends one hand-over message. Times in seconds. Raises OSError.")
        .def(
            "handover_text",
            [](const FakeVmm& vmm, const std::string& fields, bool unknown_fields) {
                return handover_text(vmm.memory(), by_name(kFields, fields, "page_size_fields"), unknown_fields);
            },
            py::arg("page_size_fields") = "both", py::arg("unknown_fields") = false,
            "The message that a stock VMM sends for this memory.")
        .def("touch", &touch, py::arg("plan"), py::kw_only(), py::arg("write") = false, py::arg("threads") = 1,
             py::arg("everybody_touches_all") = false, py::arg("cpus") = std::vector<int>(), py::arg("verify") = true,
             py::arg("timeout") = 30.0, "Touches the pages of `plan` in order. `latencies_ns` are raw 64-bit integers.")
        .def("verify", &verify, py::kw_only(), py::arg("only_touched") = true, py::arg("threads") = 1,
             py::arg("timeout") = 60.0, "Compares pages with what they must hold, by reading the memory file.")
        .def("remove", &on_ranges<&FakeVmm::remove>, py::arg("ranges"), py::arg("timeout") = 10.0,
             "madvise(MADV_DONTNEED) on (first page, count) ranges; waits until a handler has read the events.")
        .def("unmap", &on_ranges<&FakeVmm::unmap>, py::arg("ranges"), py::arg("timeout") = 10.0,
             "munmap on (first page, count) ranges.")
        .def("remap", &on_ranges<&FakeVmm::remap>, py::arg("ranges"), py::arg("timeout") = 10.0,
             "mremap of (first page, count) ranges to fresh addresses.")
        .def("storm", &storm, py::kw_only(), py::arg("removals") = 1000, py::arg("max_pages") = 256,
             py::arg("threads") = 1, py::arg("write_share") = 0.25, py::arg("seed") = 0, py::arg("timeout") = 60.0,
             "Removes random ranges while `threads` threads touch, write and check.")
        .def("close_socket", &FakeVmm::close_socket, ReleaseGil(), "Closes the hand-over connection.")
        .def("close_userfaultfd", &FakeVmm::close_userfaultfd, ReleaseGil(), "Closes the VMM's own descriptor.")
        .def("peer_has_hung_up", &FakeVmm::peer_has_hung_up, "True when the page server closed the connection.")
        .def(
            "resident_pages", [](const FakeVmm& vmm) { return vmm.memory().resident_pages(); }, ReleaseGil(),
            "Pages present, by /proc/self/pagemap.")
        .def_property_readonly("regions", &regions, "(host address, size, file offset) of each region, in bytes.")
        .def_property_readonly("pages", [](const FakeVmm& vmm) { return vmm.memory().pages(); }, "Number of pages.");
}

void register_textbook_loop(py::module_& module) {
    py::classh<TextbookLoop>(module, "TextbookLoop",
                             "The textbook page server (poll, read one message, copy one page): the benchmarks' "
                             "baseline. The `*_at_fault` arguments make it wrong on purpose at that fault (from 1).")
        .def(py::init([](const std::string& socket_path, const std::string& memory_path,
                         std::uint64_t wrong_byte_at_fault, std::uint64_t wrong_page_at_fault,
                         std::uint64_t lost_fault_at_fault, bool stale_after_remove) {
                 return std::make_shared<TextbookLoop>(socket_path, memory_path,
                                                       TextbookMutations{wrong_byte_at_fault, wrong_page_at_fault,
                                                                         lost_fault_at_fault, stale_after_remove});
             }),
             py::arg("socket_path"), py::arg("memory_path"), py::kw_only(), py::arg("wrong_byte_at_fault") = 0,
             py::arg("wrong_page_at_fault") = 0, py::arg("lost_fault_at_fault") = 0,
             py::arg("stale_after_remove") = false, "Listens on `socket_path`. Raises OSError.")
        .def(
            "serve",
            [](TextbookLoop& loop, int cpu) {
                TextbookStats stats;
                {
                    const py::gil_scoped_release release;
                    stats = loop.serve(cpu);
                }
                py::dict result;
                result["faults"] = stats.faults;
                result["zero_pages"] = stats.zero_pages;
                result["removes"] = stats.removes;
                result["retries"] = stats.retries;
                result["cpu_ns"] = stats.cpu_ns;
                return result;
            },
            py::arg("cpu") = -1, "Serves one VM until it hangs up or `stop`; `cpu` pins the calling thread first.")
        .def("stop", &TextbookLoop::stop, "Ends `serve` from another thread.");
}

}  // namespace

void register_testing(py::module_& module) {
    register_fake_vmm(module);
    register_textbook_loop(module);
    module.def("write_memory_file", &write_memory_file, py::arg("path"), py::arg("size"), py::arg("zero_share") = 0.0,
               py::arg("seed") = 0, py::arg("sparse") = true, ReleaseGil(),
               "Writes a deterministic memory file of `size` bytes; a data page carries its number and the seed.");
    module.def(
        "plan_touches",
        [](const std::string& pattern, std::uint64_t pages, std::uint64_t first_page, std::uint64_t count,
           std::uint64_t seed, std::uint64_t stride, double skew) {
            return plan_touches({by_name(kPatterns, pattern, "pattern"), seed, first_page, pages, count, stride, skew});
        },
        py::arg("pattern"), py::arg("pages"), py::kw_only(), py::arg("first_page") = 0, py::arg("count") = 0,
        py::arg("seed") = 0, py::arg("stride") = 1, py::arg("skew") = 1.0,
        "The page numbers to touch, in order, for a seeded pattern.");
    module.def("trace_loop", &trace_loop, py::arg("threads"), py::arg("records"), py::arg("traced"), ReleaseGil(),
               "What a record costs the fault path, for benchmarks: `records` by each thread; ns of the slowest.");
}

}  // namespace vmthaw::bindings
