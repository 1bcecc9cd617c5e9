// GIL and locking: KVM_RUN and every other ioctl run with the GIL released. A run is cut into slices by a timer of the
// calling thread, between which Python's signal handlers run: Ctrl-C and time-outs end it.
#include "kvm/vcpu.hpp"

#include <pybind11/stl.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bindings/bindings.hpp"
#include "bindings/exit.hpp"
#include "bindings/kernel_structure.hpp"
#include "bindings/wait.hpp"
#include "kvm/kvm.hpp"
#include "machine/exit_registers.hpp"
#include "machine/run_timer.hpp"

namespace vmthaw::bindings {
namespace {

using Numbers = std::map<std::string, std::uint64_t>;

ExitObject run(Vcpu& self, std::optional<double> timeout) {
    self.check_process();
    Exit exit;
    const bool done = wait_interruptible(timeout, [&](std::chrono::milliseconds slice) {
        const RunTimer timer(self, static_cast<std::uint64_t>(std::chrono::nanoseconds(slice).count()));
        self.set_immediate_exit(false);
        if (RunTimer::has_fired()) {
            return false;
        }
        const RunResult outcome = self.run();
        exit = decode_exit(kHostArch, outcome.result, outcome.errno_value, self.run_bytes());
        self.set_immediate_exit(false);
        return !exit.is_interrupted();
    });
    if (!done) {
        throw SystemError(ETIMEDOUT, "KVM_RUN", "the guest ran on without an exit");
    }
    keep_registers(self, exit);
    return keep_exit(exit, self, py::cast(&self));
}

#if defined(__x86_64__)

using RegsField = std::pair<const char*, __u64 kvm_regs::*>;
constexpr RegsField kRegs[] = {{"rax", &kvm_regs::rax}, {"rbx", &kvm_regs::rbx}, {"rcx", &kvm_regs::rcx},
                               {"rdx", &kvm_regs::rdx}, {"rsi", &kvm_regs::rsi}, {"rdi", &kvm_regs::rdi},
                               {"rsp", &kvm_regs::rsp}, {"rbp", &kvm_regs::rbp}, {"r8", &kvm_regs::r8},
                               {"r9", &kvm_regs::r9},   {"r10", &kvm_regs::r10}, {"r11", &kvm_regs::r11},
                               {"r12", &kvm_regs::r12}, {"r13", &kvm_regs::r13}, {"r14", &kvm_regs::r14},
                               {"r15", &kvm_regs::r15}, {"rip", &kvm_regs::rip}, {"rflags", &kvm_regs::rflags}};
using SregsField = std::pair<const char*, __u64 kvm_sregs::*>;
constexpr SregsField kSregs[] = {{"cr0", &kvm_sregs::cr0},
                                 {"cr2", &kvm_sregs::cr2},
                                 {"cr3", &kvm_sregs::cr3},
                                 {"cr4", &kvm_sregs::cr4},
                                 {"cr8", &kvm_sregs::cr8},
                                 {"efer", &kvm_sregs::efer},
                                 {"apic_base", &kvm_sregs::apic_base}};
using SegmentField = std::pair<const char*, kvm_segment kvm_sregs::*>;
constexpr SegmentField kSegments[] = {{"cs", &kvm_sregs::cs}, {"ds", &kvm_sregs::ds},  {"es", &kvm_sregs::es},
                                      {"fs", &kvm_sregs::fs}, {"gs", &kvm_sregs::gs},  {"ss", &kvm_sregs::ss},
                                      {"tr", &kvm_sregs::tr}, {"ldt", &kvm_sregs::ldt}};

// Each segment's parts are named "cs.base", "cs.selector" and so on.
template <typename Visit>
void each_segment_part(kvm_sregs& sregs, Visit visit) {
    for (const auto& [name, member] : kSegments) {
        kvm_segment& segment = sregs.*member;
        const std::string prefix = std::string(name) + ".";
        visit(prefix + "base", segment.base);
        visit(prefix + "limit", segment.limit);
        visit(prefix + "selector", segment.selector);
        visit(prefix + "type", segment.type);
        visit(prefix + "present", segment.present);
        visit(prefix + "dpl", segment.dpl);
        visit(prefix + "db", segment.db);
        visit(prefix + "s", segment.s);
        visit(prefix + "l", segment.l);
        visit(prefix + "g", segment.g);
    }
    for (const auto& [name, table] : {std::pair{"gdt", &sregs.gdt}, std::pair{"idt", &sregs.idt}}) {
        visit(std::string(name) + ".base", table->base);
        visit(std::string(name) + ".limit", table->limit);
    }
}

[[noreturn]] void refuse_register(const std::string& name) { throw ArgumentError("there is no register " + name); }

Numbers regs(const Vcpu& self) {
    const kvm_regs values = self.regs();
    Numbers numbers;
    for (const auto& [name, member] : kRegs) {
        numbers[name] = values.*member;
    }
    return numbers;
}

void set_regs(const Vcpu& self, Numbers numbers) {
    kvm_regs values = self.regs();
    for (const auto& [name, member] : kRegs) {
        if (const auto node = numbers.extract(name)) {
            values.*member = node.mapped();
        }
    }
    if (!numbers.empty()) {
        refuse_register(numbers.begin()->first);
    }
    self.set_regs(values);
}

Numbers sregs(const Vcpu& self) {
    kvm_sregs values = self.sregs();
    Numbers numbers;
    for (const auto& [name, member] : kSregs) {
        numbers[name] = values.*member;
    }
    each_segment_part(values, [&](const std::string& name, auto& value) { numbers[name] = value; });
    return numbers;
}

void set_sregs(const Vcpu& self, Numbers numbers) {
    kvm_sregs values = self.sregs();
    for (const auto& [name, member] : kSregs) {
        if (const auto node = numbers.extract(name)) {
            values.*member = node.mapped();
        }
    }
    each_segment_part(values, [&](const std::string& name, auto& value) {
        if (const auto node = numbers.extract(name)) {
            using Value = std::remove_reference_t<decltype(value)>;
            value = static_cast<Value>(node.mapped());
            if (value != node.mapped()) {
                throw ArgumentError(name + " does not take " + hex(node.mapped()));
            }
        }
    });
    if (!numbers.empty()) {
        refuse_register(numbers.begin()->first);
    }
    self.set_sregs(values);
}

std::map<std::uint32_t, std::uint64_t> msrs(const Vcpu& self, const std::vector<std::uint32_t>& indices) {
    std::map<std::uint32_t, std::uint64_t> values;
    for (const kvm_msr_entry& entry : self.msrs(indices)) {
        values[entry.index] = entry.data;
    }
    return values;
}

void set_msrs(const Vcpu& self, const std::map<std::uint32_t, std::uint64_t>& values) {
    std::vector<kvm_msr_entry> entries;
    for (const auto& [index, value] : values) {
        entries.push_back({index, 0, value});
    }
    self.set_msrs(entries);
}

#endif

}  // namespace

void answer_exit(const Vcpu& self, const ExitObject& exit, const py::bytes& data) {
    self.check_process();
    const auto text = static_cast<std::string_view>(data);
    std::byte* target = nullptr;
    std::size_t size = 0;
    if (const auto* io = std::get_if<IoExit>(&exit.exit.payload); io != nullptr && !io->is_write) {
        target = self.run_bytes().data() + io->data_offset;
        size = io->data_bytes();
    } else if (const auto* mmio = std::get_if<MmioExit>(&exit.exit.payload); mmio != nullptr && !mmio->is_write) {
        target = self.run_bytes().data() + kKvmRunPayload + offsetof(KvmRunMmio, data);
        size = mmio->size_bytes;
    }
    if (target == nullptr || size != text.size()) {
        throw ArgumentError("an exit that reads " + std::to_string(size) + " bytes cannot be answered with " +
                            std::to_string(text.size()));
    }
    std::memcpy(target, text.data(), size);
}

void register_vcpu(py::module_& module) {
    module.def(
        "set_kick_signal", &set_kick_signal, py::arg("signal"),
        "The real-time signal that ends a KVM_RUN; SIGRTMIN + 4 unless set. Call it before the first run. Raises "
        "StateError when somebody else handles it.");
    module.def("kick_signal", &kick_signal, "The real-time signal that ends a KVM_RUN.");
    py::classh<Vcpu> vcpu(
        module, "Vcpu",
        "One virtual CPU. One thread at a time; calls release the GIL and raise OSError. Registers are "
        "true after `drain` only.");
    vcpu.def("fileno", &Vcpu::fd, "The descriptor.")
        .def("run", &run, py::arg("timeout"),
             "Runs until an exit, which it gives. Without the GIL; Ctrl-C ends it. Raises TimeoutError after `timeout` "
             "seconds (None: never); the guest is then where it was and can run on.")
        .def(
            "answer", &answer_exit, py::arg("exit"), py::arg("data"),
            "What the guest reads, for an exit of IO in or MMIO read; it gets it at the next run. VmthawValueError for "
            "another exit or size.")
        .def(
            "drain",
            [](Vcpu& self) {
                self.check_process();
                if (const int error = self.drain(); error != 0) {
                    throw SystemError(error, "KVM_RUN(completing an instruction)");
                }
            },
            ReleaseGil(), "Completes a pending I/O or MMIO instruction without running on.")
        .def("memory_slots", &Vcpu::memory_slots, ReleaseGil(), "The slots of its VM, by number, as they are now.")
        .def_property_readonly("has_shut_down", &Vcpu::has_shut_down,
                               "The last exit was SHUTDOWN: KVM may have reset the registers, and a capture tells "
                               "nothing of where the guest was.")
        .def(
            "mp_state", [](const Vcpu& self) { return self.mp_state().mp_state; }, ReleaseGil(), "KVM_GET_MP_STATE.")
        .def(
            "set_mp_state", [](const Vcpu& self, std::uint32_t state) { self.set_mp_state({state}); }, py::arg("state"),
            ReleaseGil(), "KVM_SET_MP_STATE: 0 runs. Others than 0 need the interrupt controller in the kernel.");
#if defined(__x86_64__)
    vcpu.def("regs", &regs, ReleaseGil(), "The general registers, RIP and RFLAGS, by name.")
        .def("set_regs", &set_regs, py::arg("values"), ReleaseGil(), "Changes those named.")
        .def("sregs", &sregs, ReleaseGil(), "Control registers (\"cr3\"), segments (\"cs.base\") and tables.")
        .def("set_sregs", &set_sregs, py::arg("values"), ReleaseGil(), "Changes those named.")
        .def("msrs", &msrs, py::arg("indices"), ReleaseGil(), "Model-specific registers that this vCPU has, by number.")
        .def("set_msrs", &set_msrs, py::arg("values"), ReleaseGil(), "All or OSError that names the register.")
        .def(
            "xsave",
            [](const Vcpu& self) {
                std::vector<std::byte> area;
                {
                    const py::gil_scoped_release release;
                    area = self.xsave();
                }
                return py::bytes(reinterpret_cast<const char*>(area.data()), area.size());
            },
            "The extended state as KVM_GET_XSAVE gives it.")
        .def(
            "set_xsave",
            [](const Vcpu& self, const py::bytes& area) {
                const auto text = static_cast<std::string_view>(area);
                const py::gil_scoped_release release;
                self.set_xsave(std::as_bytes(std::span(text.data(), text.size())));
            },
            py::arg("area"), "As `xsave` gave it. VmthawValueError for another size.")
        .def(
            "lapic", [](const Vcpu& self) { return structure_bytes([&self] { return self.lapic(); }); },
            "struct kvm_lapic_state; OSError without an interrupt controller in the kernel.")
        .def(
            "set_lapic",
            [](const Vcpu& self, const py::bytes& state) {
                set_structure<kvm_lapic_state>(state, [&self](const kvm_lapic_state& value) { self.set_lapic(value); });
            },
            py::arg("state"), "As `lapic` gave it. VmthawValueError for another size.")
        .def(
            "set_supported_cpuid", [](const Vcpu& self, const Kvm& kvm) { self.set_cpuid(kvm.supported_cpuid()); },
            py::arg("kvm"), ReleaseGil(), "Gives the guest every CPUID leaf that KVM supports.");
#endif
}

}  // namespace vmthaw::bindings
