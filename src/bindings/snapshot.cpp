// GIL and locking: files are written, and guest memory is read, by a thread of the core (call_detached) without the
// GIL: a page may be missing for ever. Small files are read with the GIL released.
#include <pybind11/stl.h>

#include <atomic>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "bindings/bindings.hpp"
#include "bindings/detached_call.hpp"
#include "bindings/machine_hold.hpp"
#include "bindings/machine_values.hpp"
#include "machine/snapshot/machine_state.hpp"
#include "machine/snapshot/memory_file.hpp"
#include "machine/snapshot/snapshot_file.hpp"
#include "machine/snapshot/snapshot_writer.hpp"

namespace vmthaw::bindings {
namespace {

using MemoryHandle = std::shared_ptr<GuestMemory>;
using StateHandle = std::shared_ptr<MachineState>;
using WriterHandle = std::shared_ptr<SnapshotWriter>;

void write_snapshot(const WriterHandle& self, const HoldObject* hold, double timeout) {
    std::shared_ptr<const Machine::Hold> held;  // kept by the work: it goes on when the wait for it ends early
    if (hold != nullptr) {
        hold->check(*self->machine());
        held = hold->hold;
    }
    call_cancellably("saving a snapshot", timeout, [self, held](const std::atomic<bool>& cancelled) {
        if (held != nullptr) {
            self->write(*held, cancelled);
        } else {
            const Machine::Hold own(*self->machine());
            self->write(own, cancelled);
        }
    });
}

// What commit() would write into state.bin, of a memory that is kept elsewhere: its content is not looked at.
py::bytes capture_state(const std::shared_ptr<Machine>& machine, const HoldObject* hold,
                        const WorkloadTuple& workload) {
    if (hold != nullptr) {
        hold->check(*machine);
    }
    const std::shared_ptr<const Machine::Hold> given = hold != nullptr ? hold->hold : nullptr;
    const payload::Workload fixed = workload_from(workload);
    EncodedState encoded;
    {
        const py::gil_scoped_release release;
        const auto held = given != nullptr ? given : std::make_shared<const Machine::Hold>(*machine);
        MachineState state = machine->capture(*held);
        state.identity = new_snapshot_identity();
        state.workload = fixed;
        encoded = encode_state(state);
    }
    return {reinterpret_cast<const char*>(encoded.bytes.data()), encoded.bytes.size()};
}

void read_memory(const MemoryHandle& memory, const std::string& path, double timeout) {
    call_cancellably("reading the memory file", timeout, [memory, path](const std::atomic<bool>& cancelled) {
        read_memory_file(*memory, path, cancelled);
    });
}

void read_changed_pages(const MemoryHandle& memory, const StateHandle& state, const std::string& path, double timeout) {
    call_cancellably("reading the diff", timeout, [memory, state, path](const std::atomic<bool>& cancelled) {
        read_diff(*memory, state->changed_pages, path, cancelled);
    });
}

// Whether the memory holds what the snapshot's own memory file held when it was saved.
bool has_content(const MemoryHandle& memory, const StateHandle& state, double timeout) {
    const auto content = std::make_shared<MemoryContent>();
    call_cancellably("reading guest memory", timeout, [memory, state, content](const std::atomic<bool>& cancelled) {
        *content = state->is_diff() ? content_of_pages(*memory, state->changed_pages, cancelled)
                                    : content_of_memory(*memory, cancelled);
    });
    return *content == MemoryContent{state->memory_data_pages, state->memory_fingerprint};
}

py::bytes changed_pages_of(const MachineState& state) {
    const auto bytes = std::as_bytes(std::span(state.changed_pages));
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

void register_machine_state(py::module_& module) {
    py::class_<MachineState, StateHandle>(module, "MachineState", "A snapshot's state.bin, read and checked.")
        .def_static(
            "load", [](const std::string& directory) { return load_state(directory); }, py::arg("directory"),
            py::call_guard<py::gil_scoped_release>())
        .def_static(
            "decode",
            [](const py::bytes& data) {
                const auto text = static_cast<std::string_view>(data);
                return decode_state(std::as_bytes(std::span(text.data(), text.size())));
            },
            py::arg("data"), "For any bytes: the state, or SnapshotError whose `field` names what is wrong.")
        .def(
            "lies_over", [](const MachineState& self, const MachineState& base) { return self.base == base.identity; },
            py::arg("base"), "Whether that is the snapshot, to the bit, that this diff was saved over.")
        .def_property_readonly(
            "id", [](const MachineState& self) { return self.identity.text(); },
            "Of the snapshot: 32 hexadecimal digits, made at random when it was saved.")
        .def_readonly("depth", &MachineState::depth, "How many snapshots a diff lies over; 0: a full one.")
        .def_property_readonly(
            "base_id", [](const MachineState& self) { return self.is_diff() ? self.base.text() : std::string(); },
            "The id of what a diff lies over; empty for a full snapshot.")
        .def_property_readonly(
            "base_path", [](const MachineState& self) { return py::bytes(self.base_path); },
            "Where that was, from the diff's own directory.")
        .def_property_readonly("changed_pages", &changed_pages_of,
                               "A bit for each page that a diff has, the first in bit 0 of the first byte; u64 words.")
        .def_readonly("memory_size", &MachineState::memory_bytes, "Bytes.")
        .def_readonly("memory_data_pages", &MachineState::memory_data_pages,
                      "Pages of the memory file: those that are not zeros, of a diff those that were written.")
        .def_readonly("memory_fingerprint", &MachineState::memory_fingerprint)
        .def_readonly("busy", &MachineState::busy, "The guest was at a command.")
        .def_readonly("has_payload", &MachineState::has_payload, "The guest runs the payload.")
        .def_property_readonly(
            "has_irqchip", [](const MachineState& self) { return self.vm.has_irqchip(); },
            "There are interrupt controllers and a timer in the kernel.")
        .def_property_readonly("vcpu_count", [](const MachineState& self) { return self.vcpus.size(); })
        .def_property_readonly("workload", [](const MachineState& self) { return workload_to(self.workload); });
}

}  // namespace

void register_snapshot(py::module_& module) {
    register_machine_state(module);
    py::class_<SnapshotWriter, WriterHandle>(
        module, "SnapshotWriter",
        "Saves one snapshot: `write` while the guest stands still, `commit` when it may run again. A step that fails "
        "gives everything up; so does `abandon`.")
        .def(py::init([](const std::shared_ptr<Machine>& machine, const std::string& directory,
                         const WorkloadTuple& workload, bool diff) {
                 const payload::Workload fixed = workload_from(workload);
                 const py::gil_scoped_release release;
                 return std::make_shared<SnapshotWriter>(machine, directory, fixed, diff);
             }),
             py::arg("machine"), py::arg("directory"), py::arg("workload"), py::arg("diff"))
        .def("write", &write_snapshot, py::arg("hold"), py::arg("timeout"),
             "`hold` is that of a run whose vCPUs are frozen; without one the machine must not be in use.")
        .def(
            "commit",
            [](const WriterHandle& self, double timeout) {
                call_detached("writing a snapshot to the disk", timeout, [self] { self->commit(); });
            },
            py::arg("timeout"))
        .def("abandon", &SnapshotWriter::abandon, py::call_guard<py::gil_scoped_release>())
        .def_property_readonly("pages", &SnapshotWriter::pages, "Pages of the memory file, once it is written.");
    module.def("capture_state", &capture_state, py::arg("machine"), py::arg("hold"), py::arg("workload"),
               "The bytes of a state.bin without a look at the memory. `hold` as for SnapshotWriter.write. The GIL is "
               "released. Raises StateError, OSError.");
    module.def(
        "read_memory_file", &read_memory, py::arg("memory"), py::arg("path"), py::arg("timeout"),
        "Reads a memory file of exactly the memory's size into it. Raises OSError, SnapshotError, TimeoutError.");
    module.def("read_changed_pages", &read_changed_pages, py::arg("memory"), py::arg("state"), py::arg("path"),
               py::arg("timeout"), "The same for the pages of a diff.");
    module.def("has_content", &has_content, py::arg("memory"), py::arg("state"), py::arg("timeout"),
               "Whether the memory, or a diff's pages of it, is what the snapshot's memory file held.");
}

}  // namespace vmthaw::bindings
