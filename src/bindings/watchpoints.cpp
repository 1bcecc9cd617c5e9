// GIL and locking: everything that takes the core's locks, calls the kernel or looks at guest memory releases the GIL.
// Whoever sets a slot has read its page before, through a call with a time-out, so that nothing here waits for one.
#include "bindings/watchpoints.hpp"

#include <pybind11/native_enum.h>
#include <pybind11/stl.h>

#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "base/error.hpp"
#include "bindings/bindings.hpp"
#include "bindings/wait.hpp"
#include "kvm/kvm.hpp"
#include "machine/watchpoints/watch_probe.hpp"
#include "machine/watchpoints/watched_memory.hpp"

namespace vmthaw::bindings {
namespace {

constexpr std::uint64_t kPageMask = ~(kWatchedPageBytes - 1);

std::shared_ptr<WatchpointsObject> make_watchpoints(std::size_t vcpus, std::shared_ptr<GuestMemory> memory,
                                                    py::object vm, std::uint32_t gate_threshold, std::size_t events) {
    auto object = std::make_shared<WatchpointsObject>();
    object->core = std::make_unique<Watchpoints>(vcpus, WatchOptions{gate_threshold, events}, memory);
    object->memory = std::move(memory);
    if (!vm.is_none()) {
        object->pages = std::make_unique<ReadOnlyPages>(vm.cast<Vm&>());
    }
    object->vm = std::move(vm);
    return object;
}

void disarm_slot(WatchpointsObject& self, std::size_t slot) {
    self.core->disarm(slot);
    const std::lock_guard lock(self.mutex);
    if (std::optional<std::uint64_t>& page = self.page_of_slot.at(slot)) {
        self.pages->remove(*page);
        page.reset();
    }
}

void set_slot(WatchpointsObject& self, std::size_t slot, const WatchTarget& target, WatchBackend backend,
              std::optional<std::uint64_t> physical, std::optional<std::uint64_t> gate) {
    self.core->check_slot(slot);  // before a lock is taken, which is nobody's in a forked child
    WatchWish wish{target, nullptr, nullptr, physical.value_or(0), backend};
    if ((physical || gate) && !self.memory) {
        throw ArgumentError("these watchpoints have no memory to look into; make them with one");
    }
    if (physical) {
        wish.bytes = self.memory->at(*physical, kWatchBytes).data();
    }
    if (gate) {
        // JUSTIFICATION: the core reads it as four bytes, at an address that it has checked.
        wish.gate = reinterpret_cast<const std::uint32_t*>(self.memory->at(*gate, kWatchBytes).data());
    }
    if (backend == WatchBackend::read_only_page && !self.pages) {
        throw ArgumentError("a read-only page needs the Vm, whose memory slots it cuts; make the watchpoints with it");
    }
    const std::lock_guard lock(self.mutex);
    std::optional<std::uint64_t> page;
    if (backend == WatchBackend::read_only_page && physical) {
        page = *physical & kPageMask;
        self.pages->add(*page);
    }
    try {
        self.core->set(slot, wish);
    } catch (...) {
        if (page) {
            self.pages->remove(*page);
        }
        throw;
    }
    if (const auto before = std::exchange(self.page_of_slot.at(slot), page)) {
        self.pages->remove(*before);
    }
}

py::list take_watch_events(WatchpointsObject& self, std::size_t limit) {
    std::vector<WatchEvent> events;
    {
        const py::gil_scoped_release release;
        WatchEvent event;
        while (events.size() < limit && self.core->events().pop(event)) {
            events.push_back(event);
        }
    }
    py::list out;
    for (const WatchEvent& event : events) {
        const auto when = [](bool known, std::uint64_t value) -> py::object {
            return known ? py::object(py::int_(value)) : py::object(py::none());
        };
        out.append(py::make_tuple(event.kind, event.vcpu, event.slot, event.guest_address,
                                  when(event.has_bytes, event.before), when(event.has_bytes, event.after),
                                  when(event.has_instruction_pointer, event.instruction_pointer), event.t_ns,
                                  static_cast<WatchBackend>(event.backend), event.has_latched));
    }
    return out;
}

py::dict probe_ability(const Kvm& kvm) {
    WatchAbility ability;
    {
        const py::gil_scoped_release release;
        ability = probe_watchpoints(kvm);
    }
    py::dict out;
    out["data_slots"] = ability.data_slots;
    out["execute"] = ability.execute;
    out["single_step"] = ability.single_step;
    out["read_only_page"] = ability.read_only_page;
    return out;
}

}  // namespace

void register_watchpoints(py::module_& module) {
    py::native_enum<WatchKind>(module, "WatchKind", "enum.Enum", "What a slot watches for.")
        .value("write", WatchKind::write, "Stores to four bytes.")
        .value("execute", WatchKind::execute, "The instruction at an address, before it is executed.")
        .finalize();
    py::native_enum<WatchEventKind>(module, "WatchEventKind", "enum.Enum", "What a WatchEvent tells of.")
        .value("write", WatchEventKind::write, "A store is done.")
        .value("execute", WatchEventKind::execute, "An instruction is next.")
        .value("step", WatchEventKind::step, "An instruction is done.")
        .finalize();
    py::native_enum<WatchBackend>(module, "WatchBackend", "enum.Enum", "What serves watchpoints.")
        .value("none", WatchBackend::none, "Nothing: this KVM has neither.")
        .value("hardware", WatchBackend::hardware, "The processor's debug registers.")
        .value("read_only_page", WatchBackend::read_only_page, "A read-only memory slot over the page.")
        .finalize();
    module.def("probe_watchpoints", &probe_ability, py::arg("kvm"),
               "What of debug registers and read-only memory slots works, by running tiny guests in VMs of their own: "
               "{data_slots (bitmap), execute, single_step, read_only_page}. Takes the calling thread's kick signal; "
               "raises OSError. Without the GIL.");
    py::class_<WatchpointsObject, std::shared_ptr<WatchpointsObject>>(module, "WatchpointsCore",
                                                                      "What vmthaw.watchpoints.Watchpoints stands on.")
        .def(py::init(&make_watchpoints), py::arg("vcpus"), py::arg("memory"), py::arg("vm"), py::arg("gate_threshold"),
             py::arg("events"))
        .def(
            "set",
            [](WatchpointsObject& self, std::size_t slot, std::uint64_t address, WatchKind kind, WatchBackend backend,
               std::optional<std::uint64_t> physical,
               std::optional<std::uint64_t> gate) { set_slot(self, slot, {address, kind}, backend, physical, gate); },
            py::arg("slot"), py::arg("address"), py::arg("kind"), py::arg("backend"), py::arg("physical"),
            py::arg("gate"), ReleaseGil())
        .def("disarm", &disarm_slot, py::arg("slot"), ReleaseGil())
        .def(
            "has_page",
            [](WatchpointsObject& self, std::size_t slot) {
                self.core->check_slot(slot);
                const std::lock_guard lock(self.mutex);
                return self.page_of_slot.at(slot).has_value();
            },
            py::arg("slot"), ReleaseGil())
        .def(
            "latch", [](WatchpointsObject& self, std::size_t slot) { return self.core->latch(slot); }, py::arg("slot"))
        .def(
            "hit", [](const WatchpointsObject& self, std::size_t slot) { return self.core->hit(slot); },
            py::arg("slot"))
        .def(
            "clear_hit", [](WatchpointsObject& self, std::size_t slot) { self.core->clear_hit(slot); }, py::arg("slot"),
            ReleaseGil())
        .def(
            "hit_eventfd", [](WatchpointsObject& self, std::size_t slot) { return self.core->hit_eventfd(slot); },
            py::arg("slot"))
        .def_property_readonly("any_armed", [](const WatchpointsObject& self) { return self.core->any_armed(); })
        .def(
            "step",
            [](WatchpointsObject& self, std::size_t vcpu, std::uint64_t instructions) {
                self.core->step(vcpu, instructions);
            },
            py::arg("vcpu"), py::arg("instructions"))
        .def(
            "steps_left", [](const WatchpointsObject& self, std::size_t vcpu) { return self.core->steps_left(vcpu); },
            py::arg("vcpu"))
        .def(
            "requested",
            [](const WatchpointsObject& self, std::optional<WatchKind> kind) { return self.core->requested(kind); },
            py::arg("kind") = py::none(), ReleaseGil())
        .def(
            "armed", [](const WatchpointsObject& self) { return self.core->armed(); }, ReleaseGil())
        .def(
            "wait_armed",
            [](const WatchpointsObject& self, std::optional<double> timeout) {
                return wait_interruptible(
                    timeout, [&](std::chrono::milliseconds slice) { return self.core->wait_armed(slice_ns(slice)); });
            },
            py::arg("timeout"))
        .def(
            "foreign", [](const WatchpointsObject& self, std::size_t vcpu) { return self.core->foreign(vcpu); },
            py::arg("vcpu"))
        .def(
            "is_disarmed", [](const WatchpointsObject& self, std::size_t vcpu) { return self.core->is_disarmed(vcpu); },
            py::arg("vcpu"))
        .def("take_events", &take_watch_events, py::arg("limit"))
        .def("dropped_events", [](WatchpointsObject& self) { return self.core->events().dropped(); });
}

}  // namespace vmthaw::bindings
