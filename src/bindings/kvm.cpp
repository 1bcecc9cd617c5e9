// GIL and locking: KVM_RUN and every other ioctl run with the GIL released; Vm's own lock is taken without it.
#include "kvm/kvm.hpp"

#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <vector>

#include "bindings/bindings.hpp"
#include "bindings/kernel_structure.hpp"
#include "kvm/vm.hpp"

namespace vmthaw::bindings {

#if defined(__x86_64__)
namespace {

void register_vm_state(py::classh<Vm>& vm) {
    vm.def("create_pit", &Vm::create_pit, ReleaseGil(),
           "The interval timer in the kernel (x86-64); after `create_irqchip`.")
        .def(
            "irqchip",
            [](const Vm& self, std::uint32_t chip) { return structure_bytes([&] { return self.irqchip(chip); }); },
            py::arg("chip"), "struct kvm_irqchip of the master PIC (0), the slave (1) or the IOAPIC (2).")
        .def(
            "set_irqchip",
            [](const Vm& self, const py::bytes& state) {
                set_structure<kvm_irqchip>(state, [&self](const kvm_irqchip& value) { self.set_irqchip(value); });
            },
            py::arg("state"), "As `irqchip` gave it. VmthawValueError for another size; so the others.")
        .def(
            "pit", [](const Vm& self) { return structure_bytes([&] { return self.pit(); }); }, "struct kvm_pit_state2.")
        .def(
            "set_pit",
            [](const Vm& self, const py::bytes& state) {
                set_structure<kvm_pit_state2>(state, [&self](const kvm_pit_state2& value) { self.set_pit(value); });
            },
            py::arg("state"), "As `pit` gave it.")
        .def(
            "clock", [](const Vm& self) { return structure_bytes([&] { return self.clock(); }); },
            "struct kvm_clock_data.")
        .def(
            "set_clock",
            [](const Vm& self, const py::bytes& state) {
                set_structure<kvm_clock_data>(state, [&self](const kvm_clock_data& value) { self.set_clock(value); });
            },
            py::arg("state"), "Its clock and flags, as KVM_SET_CLOCK takes them.");
}

}  // namespace
#endif

void register_kvm(py::module_& module) {
    py::classh<Kvm>(module, "Kvm",
                    "/dev/kvm, opened and checked. Immutable and safe from any thread; calls release the GIL and raise "
                    "OSError: PermissionError and FileNotFoundError say how to mend it.")
        .def(py::init<>(), ReleaseGil())
        .def("fileno", &Kvm::fd, "The descriptor.")
        .def("api_version", &Kvm::api_version, ReleaseGil(), "KVM_GET_API_VERSION: always 12.")
        .def("check_extension", &Kvm::check_extension, py::arg("capability"), ReleaseGil(),
             "KVM_CHECK_EXTENSION: 0 for no, 1 or more for yes. `capability` is a KVM_CAP_* number.")
        .def("vcpu_mmap_size", &Kvm::vcpu_mmap_size, ReleaseGil(), "Bytes of a vCPU's mapping.")
        .def("msr_indices", &Kvm::msr_indices, ReleaseGil(),
             "The numbers of the model-specific registers that belong to a vCPU's state (x86-64).")
        .def(
            "create_vm", [](const Kvm& self) { return std::make_unique<Vm>(self.create_vm()); }, ReleaseGil(),
            "A new VM without memory or vCPUs.");
    py::classh<MemorySlot>(module, "MemorySlot", "One run of guest-physical memory, in bytes. A plain value.")
        .def_readonly("slot", &MemorySlot::slot)
        .def_readonly("guest_address", &MemorySlot::guest_address)
        .def_readonly("host_address", &MemorySlot::host_address)
        .def_readonly("size", &MemorySlot::size_bytes)
        .def_readonly("read_only", &MemorySlot::read_only)
        .def_readonly("log_dirty_pages", &MemorySlot::log_dirty_pages);
    py::classh<Vm> vm(
        module, "Vm",
        "One virtual machine's descriptor. Safe from several threads; calls release the GIL and raise OSError, "
        "and VmthawValueError for a slot that cannot be right.");
    vm.def("fileno", &Vm::fd, "The descriptor.")
        .def("check_extension", &Vm::check_extension, py::arg("capability"), ReleaseGil(),
             "KVM_CHECK_EXTENSION for this VM.")
        .def(
            "set_memory_slot",
            [](Vm& self, std::uint32_t slot, std::uint64_t guest_address, std::uint64_t host_address,
               std::uint64_t size, bool read_only, bool log_dirty_pages) {
                const py::gil_scoped_release release;
                self.set_memory_slot({slot, guest_address, host_address, size, read_only, log_dirty_pages});
            },
            py::arg("slot"), py::arg("guest_address"), py::arg("host_address"), py::arg("size"), py::kw_only(),
            py::arg("read_only") = false, py::arg("log_dirty_pages") = false,
            "Adds a slot, or changes the one of that number. The memory must stay mapped as long as the VM lives.")
        .def("remove_memory_slot", &Vm::remove_memory_slot, py::arg("slot"), ReleaseGil(),
             "Takes a slot away; accesses there exit as MMIO.")
        .def("memory_slots", &Vm::memory_slots, ReleaseGil(), "The slots, by number.")
        .def("dirty_log", &Vm::dirty_log, py::arg("slot"), ReleaseGil(),
             "One bit for each page, 64 to a word: written since the last call.")
        .def("create_irqchip", &Vm::create_irqchip, ReleaseGil(),
             "Interrupt controllers in the kernel; before the first vCPU. HLT then waits in the kernel.")
        .def(
            "create_vcpu",
            [](const Vm& self, std::uint32_t index) { return std::make_unique<Vcpu>(self.create_vcpu(index)); },
            py::arg("index"), ReleaseGil(), "A new vCPU.")
        .def("enable_manual_dirty_log", &Vm::enable_manual_dirty_log, ReleaseGil(),
             "Has the log cleared when `dirty_log` has read it, not while. False: the kernel cannot.")
        .def("most_dirty_ring_entries", &Vm::most_dirty_ring_entries, ReleaseGil(),
             "Most entries of a vCPU's ring of written pages; 0: the kernel has no rings.");
#if defined(__x86_64__)
    register_vm_state(vm);
#endif
}

}  // namespace vmthaw::bindings
