// GIL and locking: the session takes a C++ lock, so every call into it releases the GIL first.
#include "dax/dax_session.hpp"

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
#include "bindings/python_dax.hpp"
#include "bindings/record_array.hpp"
#include "dax/dax_decisions.hpp"

namespace vmthaw::bindings {
namespace {

py::dtype dax_mapping_dtype() {
    RecordDtype dtype;
    dtype.field("guest_address", "<u8", offsetof(DaxMapping, guest_address));
    dtype.field("window_offset", "<u8", offsetof(DaxMapping, window_offset));
    dtype.field("length", "<u8", offsetof(DaxMapping, length_bytes));
    dtype.field("file_offset", "<u8", offsetof(DaxMapping, file_offset));
    dtype.field("node", "<u8", offsetof(DaxMapping, node));
    dtype.field("prot", "<u4", offsetof(DaxMapping, prot));
    return dtype.make(sizeof(DaxMapping));
}

py::dtype dax_event_dtype() {
    RecordDtype dtype;
    dtype.field("t_start_ns", "<u8", offsetof(DaxRecord, t_start_ns));
    dtype.field("t_done_ns", "<u8", offsetof(DaxRecord, t_done_ns));
    dtype.field("guest_address", "<u8", offsetof(DaxRecord, guest_address));
    dtype.field("window_offset", "<u8", offsetof(DaxRecord, window_offset));
    dtype.field("length", "<u8", offsetof(DaxRecord, length_bytes));
    dtype.field("node", "<u8", offsetof(DaxRecord, node));
    dtype.field("file_offset", "<u8", offsetof(DaxRecord, file_offset));
    dtype.field("session", "<u4", offsetof(DaxRecord, session));
    dtype.field("error", "<i2", offsetof(DaxRecord, error));
    dtype.field("kind", "u1", offsetof(DaxRecord, kind));
    dtype.field("prot", "u1", offsetof(DaxRecord, prot));
    return dtype.make(sizeof(DaxRecord));
}

// Calls without the GIL; every call of an inherited session raises.
template <typename Call>
auto in_session(const DaxSession& session, Call call) {
    const py::gil_scoped_release release;
    session.check_process();
    return call();
}

template <typename Call>
void demand_session(const DaxSession& session, const char* operation, Call call) {
    if (const int error = in_session(session, call); error != 0) {
        throw SystemError(error, operation);
    }
}

template <typename Call>
py::array mapping_array(const DaxSession& session, Call call) {
    auto found = std::make_unique<std::vector<DaxMapping>>(in_session(session, call));
    return record_array(std::move(found), dax_mapping_dtype());
}

std::shared_ptr<DaxSession> make_session(const py::object& backend, const py::object& mapper, std::uint64_t guest_base,
                                         std::uint64_t size, std::uint64_t granule, bool read_only, std::uint64_t quota,
                                         std::size_t most_mappings) {
    auto made_backend = dax_backend_of(backend);
    auto made_mapper = dax_mapper_of(mapper);
    const py::gil_scoped_release release;
    return std::make_shared<DaxSession>(std::move(made_backend), std::move(made_mapper),
                                        DaxConfig{guest_base, size, granule, read_only, quota, most_mappings});
}

void set_up(DaxSession& self, std::uint64_t node, std::uint64_t window_offset, std::uint64_t file_offset,
            std::uint64_t length, bool write, std::optional<std::uint64_t> handle) {
    const SetupMappingIn in{handle.value_or(~std::uint64_t{0}), file_offset, length,
                            kSetupMappingRead | (write ? kSetupMappingWrite : 0), window_offset};
    demand_session(self, "SETUPMAPPING", [&] { return self.set_up(node, in); });
}

int setup_mapping(DaxSession& self, std::uint64_t node, const py::object& body) {
    const BufferView view(body);
    return in_session(self, [&] {
        SetupMappingIn in;
        const ParseOutcome outcome = parse_setup_mapping(view.bytes(), in);
        return outcome.error != 0 ? outcome.error : self.set_up(node, in);
    });
}

int remove_mapping(DaxSession& self, const py::object& body) {
    const BufferView view(body);
    return in_session(self, [&] {
        RemoveMappingEntries entries;
        const ParseOutcome outcome = parse_remove_mapping(view.bytes(), entries, self.config().granule_bytes);
        return outcome.error != 0 ? outcome.error : self.remove(entries);
    });
}

void register_events(py::module_& module) {
    py::classh<DaxEvents>(module, "DaxEvents", py::release_gil_before_calling_cpp_dtor(),
                          "The events of a DAX session on their way out; outlives it. Raises ForkedError in a forked "
                          "child.")
        .def("enable", &DaxEvents::enable, py::arg("records"), ReleaseGil())
        .def("disable", &DaxEvents::disable)
        .def(
            "take",
            [](DaxEvents& self, std::size_t limit) {
                auto records = std::make_unique<std::vector<DaxRecord>>();
                {
                    const py::gil_scoped_release release;
                    *records = self.take(limit);
                }
                return record_array(std::move(records), dax_event_dtype());
            },
            py::arg("limit"), "At most `limit`, oldest first.")
        .def_property_readonly(
            "dropped",
            [](const DaxEvents& self) {
                const py::gil_scoped_release release;
                return self.dropped();
            },
            "Lost so far because the ring was full.")
        .def_property_readonly("ended", &DaxEvents::ended, "The session is gone.");
}

void register_stats(py::module_& module) {
    py::classh<DaxStats>(module, "DaxStats", "Counters of a DAX session since its beginning. A plain value.")
        .def_readonly("set_ups", &DaxStats::set_ups, "That succeeded, replacements included.")
        .def_readonly("replaced", &DaxStats::replaced, "Set-ups over exactly an old mapping.")
        .def_readonly("overlapped", &DaxStats::overlapped, "Set-ups over parts of old ones.")
        .def_readonly("removes", &DaxStats::removes, "Entries of remove requests that succeeded.")
        .def_readonly("holes", &DaxStats::holes, "Of these, where nothing was mapped.")
        .def_readonly("resets", &DaxStats::resets)
        .def_readonly("evicted", &DaxStats::evicted, "Mappings that the quota ended.")
        .def_readonly("lost", &DaxStats::lost, "Pieces that a failed set-up took with it.")
        .def_readonly("failed", &DaxStats::failed, "Requests and entries answered with an errno.")
        .def_readonly("leases_taken", &DaxStats::leases_taken)
        .def_readonly("leases_released", &DaxStats::leases_released)
        .def_readonly("mapped_bytes", &DaxStats::mapped_bytes, "Now.")
        .def_readonly("active_slots", &DaxStats::active_slots, "Now.");
}

void register_decisions(py::module_& module) {
    py::classh<DaxFile>(module, "DaxFile", "A regular file that a client opens: what a DAX policy is told.")
        .def(py::init<std::uint64_t, std::string, std::uint64_t>(), py::arg("node"), py::arg("name"), py::arg("size"))
        .def_readonly("node", &DaxFile::node)
        .def_readonly("name", &DaxFile::name, "Its last name; empty where the file system does not know.")
        .def_readonly("size", &DaxFile::size_bytes, "Bytes.");
    py::classh<DaxDecisions>(module, "DaxDecisions", py::release_gil_before_calling_cpp_dtor(),
                             "What a policy said of the files that are open; it is asked once for each open.")
        .def(py::init([](std::uint64_t smallest, std::vector<std::string> include, std::vector<std::string> exclude) {
                 return std::make_shared<DaxDecisions>(
                     std::make_shared<DaxRules>(smallest, std::move(include), std::move(exclude)));
             }),
             py::arg("smallest"), py::arg("include"), py::arg("exclude"))
        .def(py::init([](const py::object& decide) { return std::make_shared<DaxDecisions>(dax_policy_of(decide)); }),
             py::arg("decide"))
        .def("opened", py::overload_cast<const DaxFile&>(&DaxDecisions::opened), py::arg("file"), ReleaseGil(),
             "Asks the policy, and remembers.")
        .def("uses_dax", &DaxDecisions::uses_dax, py::arg("file"), ReleaseGil(), "What was said; asks if nothing was.")
        .def("forgotten", &DaxDecisions::forgotten, py::arg("node"), ReleaseGil(), "Nobody has the file any more.");
}

}  // namespace

void register_dax_session(py::module_& module) {
    module.def("dax_record_dtype", &dax_event_dtype, "The numpy dtype of a DAX event: 64 bytes, little-endian.");
    register_events(module);
    register_stats(module);
    register_decisions(module);
    py::classh<DaxSession>(module, "DaxSession", py::release_gil_before_calling_cpp_dtor(),
                           "The core's half of vmthaw.DaxSession.")
        .def(py::init(&make_session), py::arg("backend"), py::arg("mapper"), py::arg("guest_base"), py::arg("size"),
             py::arg("granule"), py::arg("read_only"), py::arg("quota"), py::arg("most_mappings"))
        .def("set_up", &set_up, py::arg("node"), py::arg("window_offset"), py::arg("file_offset"), py::arg("length"),
             py::kw_only(), py::arg("write") = false, py::arg("handle") = py::none(),
             "Maps `length` bytes of a file, from `file_offset` on, at `window_offset` of the window: all multiples of "
             "the granule. A mapping that this covers exactly is replaced, others are cut or split; when it raises "
             "they survive. Raises OSError: EINVAL for a range that cannot be, EROFS, ENOSPC, EBUSY from within a "
             "method of this session's own mapper or backend, and whatever these answer.")
        .def(
            "remove",
            [](DaxSession& self, std::uint64_t window_offset, std::uint64_t length) {
                demand_session(self, "REMOVEMAPPING",
                               [&] { return self.remove(RemoveMappingOne{window_offset, length}); });
            },
            py::arg("window_offset"), py::arg("length"),
            "Makes a hole, whatever was mapped there; that nothing was is no error. Raises OSError; the mappings are "
            "gone even so, but for EINVAL, EBUSY and EAGAIN.")
        .def("setup_mapping", &setup_mapping, py::arg("node"), py::arg("body"),
             "A SETUPMAPPING request's bytes behind its header, from an untrusted client. Gives 0 or an errno.")
        .def("remove_mapping", &remove_mapping, py::arg("body"),
             "A REMOVEMAPPING request's bytes behind its header: all entries, also after one that failed. Gives 0 or "
             "the first errno.")
        .def(
            "reset",
            [](DaxSession& self) { demand_session(self, "resetting a DAX session", [&] { return self.reset(); }); },
            "INIT, DESTROY, device reset: everything goes. Raises OSError.")
        .def(
            "_close", [](DaxSession& self) { return in_session(self, [&] { return self.close(); }); },
            "Everything goes, and requests fail from then on. Gives 0 or an errno.")
        .def_property_readonly("guest_base", [](const DaxSession& self) { return self.config().guest_base; })
        .def_property_readonly("size", [](const DaxSession& self) { return self.config().window_bytes; })
        .def_property_readonly("granule", [](const DaxSession& self) { return self.config().granule_bytes; })
        .def_property_readonly("map_alignment", &DaxSession::map_alignment,
                               "log2 of the granule, as FUSE_INIT advertises it.")
        .def_property_readonly(
            "active_slot_count",
            [](const DaxSession& self) { return in_session(self, [&] { return self.active_slot_count(); }); },
            "Live mappings, and pieces of mappings.")
        .def(
            "mappings", [](const DaxSession& self) { return mapping_array(self, [&] { return self.mappings(); }); },
            "The live mappings by address, in a structured array: guest_address, window_offset, length, file_offset, "
            "node, prot (READ 1, WRITE 2). Bytes throughout.")
        .def(
            "mapped_ranges",
            [](const DaxSession& self, std::uint64_t node) {
                return mapping_array(self, [&] { return self.mapped_ranges(node); });
            },
            py::arg("node"), "Those of one file, as `mappings`.")
        .def(
            "past_end", [](const DaxSession& self) { return mapping_array(self, [&] { return self.past_end(); }); },
            "What of them lies past the end of their file, from the first page that is not there: what a guest's exit "
            "without an address may be about. As `mappings`.")
        .def(
            "mapping_at",
            [](const DaxSession& self, std::uint64_t guest_address) {
                return mapping_array(self, [&] {
                    const auto found = self.mapping_at(guest_address);
                    return found ? std::vector{*found} : std::vector<DaxMapping>{};
                });
            },
            py::arg("guest_address"), "The mapping of a guest address: one row as in `mappings`, or none in a hole.")
        .def_property_readonly(
            "stats", [](const DaxSession& self) { return in_session(self, [&] { return self.stats(); }); },
            "Counters, taken together.")
        .def_property_readonly("id", &DaxSession::id,
                               "Its number among the sessions of this process, from 1: what its events have.")
        // No property: that would keep the session alive.
        .def("_share_events", [](const DaxSession& self) { return std::shared_ptr<DaxEvents>(self.events()); });
}

}  // namespace vmthaw::bindings
