#include "machine/buses.hpp"

#include "base/error.hpp"
#include "devices/addresses.hpp"
#include "devices/i8042.hpp"

namespace vmthaw {
namespace {

void add_if(Bus& bus, std::uint64_t first, std::uint64_t size, const std::shared_ptr<Device>& device, const char* name,
            std::uint64_t device_offset = 0) {
    if (device) {
        bus.add(first, size, device, name, device_offset);
    }
}

}  // namespace

Buses::Buses(GuestArch arch) : arch_(arch), ports_("port", kLastPort), mmio_("MMIO", kLastMmioAddress) {}

void Buses::add_standard(const StandardDevices& devices) {
    if (arch_ == GuestArch::x86_64) {
        add_if(ports_, kX86Com1Port, kX86SerialPorts, devices.com1, "com1");
        add_if(ports_, kX86Com2Port, kX86SerialPorts, devices.com2, "com2");
        add_if(ports_, kX86KeyboardDataPort, 1, devices.keyboard, "i8042 data");
        add_if(ports_, kX86KeyboardCommandPort, 1, devices.keyboard, "i8042 command", I8042::kCommandOffset);
        add_if(mmio_, kX86ConsoleAddress, kMmioWindowBytes, devices.console, "console");
        add_if(mmio_, kX86BlockAddress, kMmioWindowBytes, devices.block, "block");
        add_if(mmio_, kX86NetAddress, kMmioWindowBytes, devices.net, "net");
        return;
    }
    if (devices.keyboard) {
        throw ArgumentError("aarch64 has no ports and so no i8042; leave the keyboard out");
    }
    add_if(mmio_, kAarch64Com1Address, kMmioWindowBytes, devices.com1, "com1");
    add_if(mmio_, kAarch64Com2Address, kMmioWindowBytes, devices.com2, "com2");
    add_if(mmio_, kAarch64ConsoleAddress, kMmioWindowBytes, devices.console, "console");
    add_if(mmio_, kAarch64BlockAddress, kMmioWindowBytes, devices.block, "block");
    add_if(mmio_, kAarch64NetAddress, kMmioWindowBytes, devices.net, "net");
}

void Buses::seal() noexcept {
    ports_.seal();
    mmio_.seal();
}

}  // namespace vmthaw
