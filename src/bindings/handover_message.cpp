#include <pybind11/stl.h>

#include <string>
#include <tuple>
#include <vector>

#include "bindings/bindings.hpp"
#include "handover/handover_message.hpp"

// GIL and locking: parsing takes no lock and releases the GIL.
namespace vmthaw::bindings {
namespace {

using RegionTuple = std::tuple<std::uint64_t, std::uint64_t, std::uint64_t, std::uint64_t>;

std::vector<RegionTuple> parse(const std::string& text) {
    std::vector<RegionTuple> result;
    for (const Region& region : parse_handover_message(text)) {
        result.emplace_back(region.host_address, region.size, region.source_offset, region.page_size);
    }
    return result;
}

}  // namespace

void register_handover_message(py::module_& module) {
    module.def("parse_handover_message", &parse, py::arg("text"), ReleaseGil(),
               "Parses a VMM's hand-over message (bytes or str) into (host address, size, source offset, page size) "
               "tuples, all in bytes. Raises HandoverError, whose `field` names what is wrong.");
    module.def(
        "handover_message_is_incomplete", [](const std::string& text) { return handover_message_is_incomplete(text); },
        py::arg("text"), ReleaseGil(), "True when `text` may be the beginning of a message.");
}

}  // namespace vmthaw::bindings
