#include "bindings/userfaultfd_values.hpp"

#include <pybind11/native_enum.h>

#include <array>
#include <cstdint>
#include <string>
#include <utility>

#include "kernel/userfaultfd.hpp"
#include "userfaultfd/fill_outcome.hpp"
#include "userfaultfd/liveness_checker.hpp"

namespace vmthaw::bindings {
namespace {

// Name, value: numbers of the kernel's interface, under the names of src/kernel/userfaultfd.hpp.
constexpr std::array<std::pair<const char*, std::uint64_t>, 27> kConstants{{
    {"EVENT_PAGEFAULT", kEventPagefault},
    {"EVENT_FORK", kEventFork},
    {"EVENT_REMAP", kEventRemap},
    {"EVENT_REMOVE", kEventRemove},
    {"EVENT_UNMAP", kEventUnmap},
    {"FAULT_WRITE", kFaultWrite},
    {"FAULT_WRITE_PROTECT", kFaultWriteProtect},
    {"FAULT_MINOR", kFaultMinor},
    {"REGISTER_MISSING", kRegisterMissing},
    {"REGISTER_WRITE_PROTECT", kRegisterWriteProtect},
    {"REGISTER_MINOR", kRegisterMinor},
    {"MODE_DONT_WAKE", kModeDontWake},
    {"MODE_COPY_WRITE_PROTECT", kModeCopyWriteProtect},
    {"MODE_MOVE_ALLOW_SOURCE_HOLES", kModeMoveAllowSourceHoles},
    {"MODE_WRITE_PROTECT", kModeWriteProtect},
    {"MODE_WRITE_PROTECT_DONT_WAKE", kModeWriteProtectDontWake},
    {"RANGE_WAKE", kRangeWake},
    {"RANGE_COPY", kRangeCopy},
    {"RANGE_ZEROPAGE", kRangeZeropage},
    {"RANGE_MOVE", kRangeMove},
    {"RANGE_WRITE_PROTECT", kRangeWriteProtect},
    {"RANGE_CONTINUE", kRangeContinue},
    {"RANGE_POISON", kRangePoison},
    {"PROTECT_CLEAR", 0},
    {"MESSAGE_SIZE_BYTES", sizeof(UffdMessage)},
    {"USERFAULTFD_API", kUffdApi},
    {"USER_MODE_ONLY", kUffdUserModeOnly},
}};

std::string describe(const FillOutcome& outcome) {
    return "FillOutcome(" + py::str(py::cast(outcome.status)).cast<std::string>() +
           ", errno_value=" + std::to_string(outcome.errno_value) +
           ", done_bytes=" + std::to_string(outcome.done_bytes) + ")";
}

void register_feature(py::module_& module) {
    py::native_enum<Feature> feature(module, "Feature", "enum.IntFlag",
                                     "Features of a userfaultfd, one bit each (UFFD_FEATURE_*). Combine with |; bits "
                                     "that a newer kernel adds survive.");
    for (const std::string& name : Features(~std::uint64_t{0}).names()) {
        if (name.starts_with("bit")) {
            continue;
        }
        const std::size_t bit = [&name] {
            std::size_t index = 0;
            while (Features(std::uint64_t{1} << index).names().front() != name) {
                ++index;
            }
            return index;
        }();
        feature.value(name.c_str(), static_cast<Feature>(std::uint64_t{1} << bit));
    }
    feature.finalize();
}

}  // namespace

py::object to_python(Features features) { return py::module_::import("vmthaw._core").attr("Feature")(features.bits()); }

Features features_from(const py::handle& value) {
    return Features(py::int_(py::reinterpret_borrow<py::object>(value)));
}

py::object message_dtype() {
    py::dict layout;
    layout["names"] = py::make_tuple("event", "flags", "address", "tid", "ufd", "from", "to", "len", "start", "end");
    layout["formats"] = py::make_tuple("u1", "<u8", "<u8", "<u4", "<u4", "<u8", "<u8", "<u8", "<u8", "<u8");
    layout["offsets"] = py::make_tuple(0, 8, 16, 24, 8, 8, 16, 24, 8, 16);
    layout["itemsize"] = py::int_(sizeof(UffdMessage));
    return py::module_::import("numpy").attr("dtype")(layout);
}

void register_userfaultfd_values(py::module_& module) {
    register_feature(module);
    py::native_enum<FillStatus>(module, "FillStatus", "enum.Enum", "What a fill or a write-protection came to.")
        .value("done", FillStatus::done)
        .value("present", FillStatus::present)
        .value("again", FillStatus::again)
        .value("unmapped", FillStatus::unmapped)
        .value("gone", FillStatus::gone)
        .value("no_memory", FillStatus::no_memory)
        .value("bad_source", FillStatus::bad_source)
        .value("invalid", FillStatus::invalid)
        .value("failed", FillStatus::failed)
        .finalize();
    py::native_enum<Liveness>(module, "Liveness", "enum.Enum", "What a LivenessChecker found out.")
        .value("alive", Liveness::alive)
        .value("dead", Liveness::dead)
        .value("unknown", Liveness::unknown)
        .finalize();
    py::classh<FillOutcome>(module, "FillOutcome",
                            "How far a fill came and why it stopped. Fills never raise for what the kernel answers: "
                            "look at `status`. Immutable.")
        .def_readonly("status", &FillOutcome::status, "A FillStatus.")
        .def_readonly("errno_value", &FillOutcome::errno_value, "errno of the call that stopped it; 0 when done.")
        .def_readonly("done_bytes", &FillOutcome::done_bytes,
                      "Bytes installed from the start of the range, partial progress included.")
        .def("__repr__", &describe)
        .def(
            "__eq__",
            [](const FillOutcome& left, const py::object& right) {
                if (!py::isinstance<FillOutcome>(right)) {
                    return false;
                }
                const auto& other = right.cast<const FillOutcome&>();
                return left.status == other.status && left.errno_value == other.errno_value &&
                       left.done_bytes == other.done_bytes;
            },
            py::arg("other"));
    for (const auto& [name, value] : kConstants) {
        module.attr(name) = value;
    }
    module.def(
        "message_dtype", &message_dtype,
        "The numpy dtype of the records that Userfaultfd.read() gives. Fields overlap as in the kernel's union: "
        "event; flags, address, tid (page fault); ufd (fork); from, to, len (remap); start, end (remove, unmap).");
}

}  // namespace vmthaw::bindings
