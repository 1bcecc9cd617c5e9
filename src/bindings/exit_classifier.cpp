// GIL and locking: pure values; everything runs with the GIL held and blocks nowhere.
#include "vcpu/exit_classifier.hpp"

#include <pybind11/native_enum.h>
#include <pybind11/stl.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>

#include "base/error.hpp"
#include "bindings/bindings.hpp"
#include "bindings/buffer_view.hpp"
#include "bindings/exit.hpp"

namespace vmthaw::bindings {
namespace {

double classify_ns(ExitProfile profile, GuestArch arch, const py::buffer& run_bytes, std::uint64_t calls) {
    const BufferView view(run_bytes);
    if (calls == 0) {
        throw ArgumentError("calls is 0; nothing would be measured");
    }
    const py::gil_scoped_release release;
    std::uint64_t used = 0;  // so that no call is left out
    const auto start = std::chrono::steady_clock::now();
    for (std::uint64_t i = 0; i < calls; ++i) {
        const Exit exit = classify_exit(profile, arch, 0, 0, view.bytes());
        used += exit.payload.index() + static_cast<std::uint64_t>(exit.action.kind);
    }
    const std::chrono::duration<double, std::nano> passed = std::chrono::steady_clock::now() - start;
    return used == UINT64_MAX ? 0 : passed.count() / static_cast<double>(calls);
}

// The references are never given back: the members live as long as the module.
template <typename Enum>
void remember_members(const py::object& enumeration, const std::array<const char*, 2>& names) {
    for (std::size_t i = 0; i < names.size(); ++i) {
        py::object member = enumeration.attr(names[i]);
        const auto value = py::cast<Enum>(member);
        FastEnum<Enum>::members[i] = {member.release().ptr(), value};
    }
}

}  // namespace

void register_exit_classifier(py::module_& module) {
    py::native_enum<GuestArch>(module, "GuestArch", "enum.Enum", "Whose struct kvm_run it is.")
        .value("x86_64", GuestArch::x86_64)
        .value("aarch64", GuestArch::aarch64)
        .finalize();
    py::native_enum<ExitProfile>(module, "ExitProfile", "enum.Enum",
                                 "How odd exits are answered: passed over (lenient, also called ktstr) or stopped at.")
        .value("lenient", ExitProfile::lenient)
        .value("ktstr", ExitProfile::lenient)
        .value("strict", ExitProfile::strict)
        .finalize();
    remember_members<GuestArch>(module.attr("GuestArch"), {"x86_64", "aarch64"});
    remember_members<ExitProfile>(module.attr("ExitProfile"), {"lenient", "strict"});
    py::native_enum<ExitActionKind>(module, "ExitActionKind", "enum.Enum",
                                    "What is to be done about an exit: `none` leaves it to the run loop.")
        .value("none", ExitActionKind::none)
        .value("continue_", ExitActionKind::continue_)
        .value("shutdown", ExitActionKind::shutdown)
        .value("fatal", ExitActionKind::fatal)
        .finalize();
    py::classh<ExitAction>(module, "ExitAction", "What is to be done about an exit. A plain value.")
        .def(py::init([](ExitActionKind kind, std::optional<std::uint64_t> reason) {
                 if (reason && kind != ExitActionKind::fatal) {
                     throw ArgumentError("only a fatal action has a reason");
                 }
                 return ExitAction{kind, reason};
             }),
             py::arg("kind"), py::arg("reason") = py::none(), "VmthawValueError for a reason of what is not fatal.")
        .def_readonly("kind", &ExitAction::kind, "Which.")
        .def_readonly("reason", &ExitAction::reason,
                      "Of `fatal`: FAIL_ENTRY's hardware reason, INTERNAL_ERROR's sub-error, SYSTEM_EVENT's type, "
                      "UNKNOWN's hardware reason, the errno of a KVM_RUN that failed, else the exit's number; or None.")
        .def(
            "__eq__", [](const ExitAction& self, const ExitAction& other) { return self == other; }, py::is_operator())
        .def("__hash__", [](const ExitAction& self) { return py::hash(py::make_tuple(self.kind, self.reason)); })
        .def("__str__", &ExitAction::describe)
        .def("__repr__", [](const ExitAction& self) { return "<ExitAction " + self.describe() + ">"; });
    module.def("_classify_exit_ns", &classify_ns, py::arg("profile"), py::arg("arch"), py::arg("run_bytes"),
               py::arg("calls"),
               "Nanoseconds that one classify_exit takes in C++, over `calls` of them. For benchmarks.");
}

}  // namespace vmthaw::bindings
