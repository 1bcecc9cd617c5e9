// GIL and locking: the window's lock is taken with the GIL released; back ends written in Python are called as
// bindings/python_device.hpp says.
#include "devices/virtio_mmio.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/error.hpp"
#include "bindings/bindings.hpp"
#include "bindings/buffer_view.hpp"
#include "bindings/python_device.hpp"

namespace vmthaw::bindings {
namespace {

VirtioMmio::State state_of(const VirtioMmio& self) {
    const py::gil_scoped_release release;
    return self.state();
}

std::vector<VirtioQueue> queues(const VirtioMmio& self) {
    const VirtioMmio::State state = state_of(self);
    return {state.queues.begin(), state.queues.begin() + static_cast<std::ptrdiff_t>(state.queue_count)};
}

template <DeviceOutcome (VirtioMmio::*Signal)() noexcept>
void signal(VirtioMmio& self) {
    {
        const py::gil_scoped_release release;
        static_cast<void>((self.*Signal)());
    }
    raise_device_error();
}

std::shared_ptr<VirtioBackend> idle_net(const py::buffer& mac) {
    const BufferView view(mac);
    std::array<std::uint8_t, 6> address{};
    if (view.bytes().size() != address.size()) {
        throw ArgumentError("a MAC address has 6 bytes, not " + std::to_string(view.bytes().size()));
    }
    std::ranges::transform(view.bytes(), address.begin(),
                           [](std::byte byte) { return std::to_integer<std::uint8_t>(byte); });
    return make_idle_net(address);
}

}  // namespace

void register_virtio_mmio(py::module_& module) {
    py::classh<VirtioQueue>(module, "VirtioQueue", "Where a driver put one queue: guest-physical. A plain value.")
        .def_readonly("size", &VirtioQueue::size, "Entries.")
        .def_readonly("ready", &VirtioQueue::ready, "The driver has said so.")
        .def_readonly("descriptor_address", &VirtioQueue::descriptor_address, "Of the descriptor table.")
        .def_readonly("driver_address", &VirtioQueue::driver_address, "Of the available ring.")
        .def_readonly("device_address", &VirtioQueue::device_address, "Of the used ring.");
    py::classh<VirtioBackend>(module, "VirtioBackend", py::release_gil_before_calling_cpp_dtor(),
                              "What a virtio window stands for, written in C++.")
        .def_property_readonly("device_id", &VirtioBackend::device_id, "1 network, 2 block, 3 console.")
        .def_property_readonly("features", &VirtioBackend::features, "Offered, beside VIRTIO_F_VERSION_1.")
        .def_property_readonly("queue_count", &VirtioBackend::queue_count, "How many queues it has.");
    module.def("make_idle_console", &make_idle_console, "A console with one port that serves no queue.");
    module.def("make_idle_block", &make_idle_block, py::arg("sectors"),
               "A disk of so many 512-byte sectors that serves no queue.");
    module.def("make_idle_net", &idle_net, py::arg("mac"), "A network card with this address that serves no queue.");
    py::classh<VirtioMmio, Device>(
        module, "VirtioMmio", py::release_gil_before_calling_cpp_dtor(),
        "The register window of a virtio device (version 2). Registers are 4 bytes wide: other reads there are 0xff, "
        "other writes are ignored; the configuration behind them takes 1 to 8 bytes. What the driver does out of order "
        "is refused: it changes nothing and is counted. Thread-safe; never takes the GIL itself.")
        .def(py::init([](const py::object& backend, const py::object& interrupt) {
                 return std::make_shared<VirtioMmio>(backend_of(backend), interrupt_of(interrupt));
             }),
             py::arg("backend"), py::arg("interrupt") = py::none(),
             "A back end is one of this module's, or has device_id, features, queue_count (read once) and "
             "read_config(offset, size) -> bytes; it may have write_config(offset, data), activate(features, queues), "
             "reset() and notify(queue). `interrupt`: None, the descriptor of an eventfd, or a callable that takes the "
             "level. VmthawValueError for anything else and for more than 16 queues.")
        .def("signal_used", &signal<&VirtioMmio::signal_used>, "Tells the driver that a buffer was used.")
        .def("signal_config_change", &signal<&VirtioMmio::signal_config_change>,
             "Tells the driver that the configuration is another one.")
        .def("signal_needs_reset", &signal<&VirtioMmio::signal_needs_reset>,
             "Tells the driver that only a reset helps.")
        .def_property_readonly(
            "status", [](const VirtioMmio& self) { return state_of(self).status; }, "The status register.")
        .def_property_readonly(
            "driver_features", [](const VirtioMmio& self) { return state_of(self).driver_features; },
            "What the driver asked for so far.")
        .def_property_readonly("offered_features", &VirtioMmio::offered_features, "What it may ask for.")
        .def_property_readonly(
            "interrupt_status", [](const VirtioMmio& self) { return state_of(self).interrupt_status; },
            "Bit 0: a buffer was used, bit 1: the configuration changed.")
        .def_property_readonly(
            "config_generation", [](const VirtioMmio& self) { return state_of(self).config_generation; },
            "How often the configuration changed.")
        .def_property_readonly(
            "refused", [](const VirtioMmio& self) { return state_of(self).refused; },
            "How many writes were refused since the beginning.")
        .def_property_readonly("queues", &queues, "As the driver has set them up.");
}

}  // namespace vmthaw::bindings
