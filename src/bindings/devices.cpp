// GIL and locking: whatever takes a device's or a buffer's lock runs with the GIL released; what Python wrote is called
// as bindings/python_device.hpp says. Setting up buses takes no lock.
#include <fcntl.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/error.hpp"
#include "bindings/bindings.hpp"
#include "bindings/buffer_view.hpp"
#include "bindings/python_device.hpp"
#include "bindings/wait.hpp"
#include "devices/byte_sink.hpp"
#include "devices/i8042.hpp"
#include "devices/serial.hpp"
#include "machine/buses.hpp"

namespace vmthaw::bindings {
namespace {

using Data = std::span<const std::uint8_t>;

Data data_of(const BufferView& view) {
    return {reinterpret_cast<const std::uint8_t*>(view.bytes().data()), view.bytes().size()};
}

py::bytes bytes_from(Data data) { return {reinterpret_cast<const char*>(data.data()), data.size()}; }

py::bytes read_device(Device& self, std::uint64_t offset, std::size_t size) {
    std::array<std::uint8_t, 8> out{};
    if (size == 0 || size > out.size()) {
        throw ArgumentError("a device reads 1 to 8 bytes at once, not " + std::to_string(size));
    }
    {
        const py::gil_scoped_release release;
        static_cast<void>(self.read(offset, std::span(out).first(size)));
    }
    raise_device_error();
    return bytes_from(std::span(out).first(size));
}

void write_device(Device& self, std::uint64_t offset, const py::buffer& data) {
    const BufferView view(data);
    if (view.bytes().empty() || view.bytes().size() > 8) {
        throw ArgumentError("a device takes 1 to 8 bytes at once, not " + std::to_string(view.bytes().size()));
    }
    {
        const py::gil_scoped_release release;
        static_cast<void>(self.write(offset, data_of(view)));
    }
    raise_device_error();
}

std::size_t receive(Serial& self, const py::buffer& data) {
    const BufferView view(data);
    self.check_process();
    Serial::Received received;
    {
        const py::gil_scoped_release release;
        received = self.receive(data_of(view));
    }
    raise_device_error();
    return received.bytes;
}

py::dict registers(const Serial& self) {
    Serial::Registers found;
    {
        const py::gil_scoped_release release;
        found = self.registers();
    }
    py::dict out;
    out["ier"] = found.ier;
    out["iir"] = found.iir;
    out["fcr"] = found.fcr;
    out["lcr"] = found.lcr;
    out["mcr"] = found.mcr;
    out["lsr"] = found.lsr;
    out["msr"] = found.msr;
    out["scr"] = found.scr;
    out["divisor"] = found.divisor;
    out["waiting_bytes"] = found.waiting_bytes;
    return out;
}

std::vector<std::tuple<std::uint64_t, std::uint64_t, std::string>> windows(const Bus& self) {
    std::vector<std::tuple<std::uint64_t, std::uint64_t, std::string>> out;
    for (const BusWindow& window : self.windows()) {
        out.emplace_back(window.first, window.size_bytes, window.name);
    }
    return out;
}

std::shared_ptr<Device> device_or_null(const py::object& object) {
    return object.is_none() ? nullptr : device_of(object);
}

void register_sinks(py::module_& module) {
    const py::classh<ByteSink> sink(module, "ByteSink", py::release_gil_before_calling_cpp_dtor(),
                                    "Where the output of a serial port goes.");
    py::classh<OutputBuffer, ByteSink>(module, "OutputBuffer", py::release_gil_before_calling_cpp_dtor(),
                                       "Keeps the newest bytes that a guest sent, up to a limit. Thread-safe; calls "
                                       "release the GIL.")
        .def(py::init<std::size_t>(), py::arg("capacity") = std::size_t{1} << 20U,
             "Up to `capacity` bytes, 1 MiB unless said. VmthawValueError for 0 and for more than 1 GiB.")
        .def(
            "take",
            [](OutputBuffer& self, std::size_t limit) {
                std::vector<std::uint8_t> taken;
                {
                    const py::gil_scoped_release release;
                    taken = self.take(limit);
                }
                return bytes_from(taken);
            },
            py::arg("limit") = std::size_t{1} << 30U, "Takes the oldest bytes out, `limit` of them at most.")
        .def(
            "wait",
            [](OutputBuffer& self, std::optional<double> timeout) {
                return wait_interruptible(timeout, [&](std::chrono::milliseconds slice) { return self.wait(slice); });
            },
            py::arg("timeout") = py::none(),
            "Waits for bytes, or for the end of all that send some. False after `timeout` seconds. Ctrl-C ends it.")
        .def(
            "_wait_once",
            [](OutputBuffer& self, int milliseconds) { return self.wait(std::chrono::milliseconds(milliseconds)); },
            py::arg("milliseconds"), ReleaseGil(), "The same for threads that signals do not reach: one long wait.")
        .def("close", &OutputBuffer::close, ReleaseGil(), "Takes no more bytes; those it has can be taken. Idempotent.")
        .def(
            "_producer",
            [](const std::shared_ptr<OutputBuffer>& self) -> std::shared_ptr<ByteSink> {
                return std::make_shared<ClosingSink>(self);
            },
            "A sink that closes the buffer when nobody holds it any more.")
        .def_property_readonly("closed", py::cpp_function(&OutputBuffer::is_closed, ReleaseGil()),
                               "No more bytes will come.")
        .def_property_readonly("dropped_bytes", py::cpp_function(&OutputBuffer::dropped_bytes, ReleaseGil()),
                               "How many were lost, because nobody took them in time or after the end.")
        .def_property_readonly("capacity", &OutputBuffer::capacity_bytes, "The limit in bytes.")
        .def("__len__", &OutputBuffer::size_bytes, ReleaseGil());
    const py::classh<ClosingSink, ByteSink> closing(module, "_ClosingSink", py::release_gil_before_calling_cpp_dtor());
    py::classh<DescriptorSink, ByteSink>(
        module, "DescriptorSink", py::release_gil_before_calling_cpp_dtor(),
        "Writes what a guest sends to a descriptor, as fast as that takes it; a backlog waits for the next write. The "
        "guest never does. Thread-safe; calls release the GIL.")
        .def(py::init([](int fd, std::size_t backlog) {
                 const py::gil_scoped_release release;
                 return std::make_shared<DescriptorSink>(
                     UniqueFd(check_errno(::fcntl(fd, F_DUPFD_CLOEXEC, 0), "fcntl(F_DUPFD_CLOEXEC)")), backlog);
             }),
             py::arg("fd"), py::arg("backlog") = std::size_t{64} << 10U,
             "A duplicate of `fd` is written to. Raises OSError when there is none.")
        .def("flush", &DescriptorSink::flush, ReleaseGil(),
             "Writes the backlog, as far as it goes without waiting. True when nothing is left.")
        .def_property_readonly("dropped_bytes", py::cpp_function(&DescriptorSink::dropped_bytes, ReleaseGil()),
                               "How many were lost: the backlog was full, or writing failed.")
        .def_property_readonly("errno", py::cpp_function(&DescriptorSink::errno_value, ReleaseGil()),
                               "Of the error that ended the writing, or 0.");
}

void register_buses(py::module_& module) {
    py::classh<Bus>(module, "Bus", "Windows of devices, which never overlap. Set it up on one thread.")
        .def(
            "add",
            [](Bus& self, std::uint64_t first, std::uint64_t size, const py::object& device, const std::string& name,
               std::uint64_t device_offset) { self.add(first, size, device_of(device), name, device_offset); },
            py::arg("first"), py::arg("size"), py::arg("device"), py::arg("name"), py::arg("device_offset") = 0,
            "Puts a device at `first`, for `size` bytes; it calls the first of them `device_offset`. A device is one "
            "of "
            "this module, or has read(offset, size), which gives exactly that many bytes, and write(offset, data). "
            "VmthawValueError when the window overlaps another or leaves the bus, StateError once a dispatcher uses "
            "it.")
        .def_property_readonly("windows", &windows, "(first, size, name) of each, in the order of addresses.")
        .def_property_readonly("name", &Bus::name, "\"port\" or \"MMIO\".");
    py::classh<Buses>(module, "Buses", "What a guest can reach beside its memory: ports (x86-64 only) and MMIO.")
        .def(py::init<GuestArch>(), py::arg("arch"))
        .def_property_readonly("arch", &Buses::arch, "Whose exits they answer.")
        .def_property_readonly(
            "ports", [](Buses& self) -> Bus& { return self.ports(); }, py::return_value_policy::reference_internal,
            "0 to 0xffff.")
        .def_property_readonly(
            "mmio", [](Buses& self) -> Bus& { return self.mmio(); }, py::return_value_policy::reference_internal,
            "Guest-physical addresses.")
        .def(
            "add_standard",
            [](Buses& self, const py::object& com1, const py::object& com2, const py::object& keyboard,
               const py::object& console, const py::object& block, const py::object& net) {
                self.add_standard({.com1 = device_or_null(com1),
                                   .com2 = device_or_null(com2),
                                   .keyboard = device_or_null(keyboard),
                                   .console = device_or_null(console),
                                   .block = device_or_null(block),
                                   .net = device_or_null(net)});
            },
            py::kw_only(), py::arg("com1") = py::none(), py::arg("com2") = py::none(), py::arg("keyboard") = py::none(),
            py::arg("console") = py::none(), py::arg("block") = py::none(), py::arg("net") = py::none(),
            "Puts those given at their usual places. x86-64: ports 0x3f8, 0x2f8, 0x60 and 0x64, MMIO 0xc0000000, "
            "0xc0001000, 0xc0002000. aarch64: MMIO 0x09000000 (com1) to 0x09004000 (net), 0x1000 apart; no keyboard. "
            "Raises as Bus.add does.");
}

}  // namespace

void register_devices(py::module_& module) {
    register_sinks(module);
    py::classh<Device>(module, "Device", py::release_gil_before_calling_cpp_dtor(),
                       "A device of the core's. It never takes the GIL; Python may call it as a guest would.")
        .def("read", &read_device, py::arg("offset"), py::arg("size"), "What a guest would read, 1 to 8 bytes.")
        .def("write", &write_device, py::arg("offset"), py::arg("data"), "What a guest would write, 1 to 8 bytes.");
    py::classh<I8042, Device>(module, "I8042", py::release_gil_before_calling_cpp_dtor(),
                              "The PC's keyboard controller, without a keyboard: reads are 0, the reset is counted.")
        .def(py::init<>())
        .def_property_readonly("resets", &I8042::resets, "How often the guest asked for a reset.");
    py::classh<Serial, Device>(module, "Serial", py::release_gil_before_calling_cpp_dtor(),
                               "The core's half of vmthaw.devices.Serial.")
        .def(py::init([](std::shared_ptr<ByteSink> output, const py::object& interrupt) {
                 return std::make_shared<Serial>(std::move(output), interrupt_of(interrupt));
             }),
             py::arg("output").none(true), py::arg("interrupt"))
        .def("receive", &receive, py::arg("data"),
             "Gives the guest bytes to read; returns how many of them it has room for: 64, 1 while the guest has not "
             "enabled the FIFO, 0 in loopback.")
        .def_property_readonly("registers", &registers, "The registers as numbers by name; reading changes nothing.");
    register_buses(module);
}

}  // namespace vmthaw::bindings
