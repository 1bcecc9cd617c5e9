#pragma once

#include <memory>

#include "bindings/bindings.hpp"
#include "devices/device.hpp"
#include "devices/interrupt_pin.hpp"
#include "devices/virtio_backend.hpp"

// GIL and locking: what Python wrote is called by vCPU threads, which Python started, without any lock held; the GIL is
// taken for the call alone. What it raises never leaves the call: it becomes DeviceOutcome::failed and is kept for the
// thread, until the binding that led there raises it.
namespace vmthaw::bindings {

// A C++ device as it is, or anything with read(offset, size) and write(offset, data). Throws ArgumentError. GIL held.
[[nodiscard]] std::shared_ptr<Device> device_of(const py::object& object);
// None, a descriptor of an eventfd (which is duplicated), or a callable that takes the level.
[[nodiscard]] std::shared_ptr<InterruptLine> interrupt_of(const py::object& object);
// A C++ back end as it is, or anything with device_id, features, queue_count and read_config(offset, size).
[[nodiscard]] std::shared_ptr<VirtioBackend> backend_of(const py::object& object);

// Raises what a device written in Python raised on this thread since the last time, if anything. GIL held.
void raise_device_error();

}  // namespace vmthaw::bindings
