#pragma once

#include <memory>

#include "devices/bus.hpp"
#include "vcpu/exit.hpp"

namespace vmthaw {

// The devices that stand at fixed places; one that is null has no window.
struct StandardDevices {
    std::shared_ptr<Device> com1, com2;
    std::shared_ptr<Device> keyboard;  // x86-64 only; offsets as I8042 has them
    std::shared_ptr<Device> console, block, net;
};

// What a guest of this architecture can reach beside its memory: ports (x86-64 alone has them) and MMIO. Set up on one
// thread, then sealed by the first dispatcher that uses it. Owns its devices.
class Buses {
public:
    explicit Buses(GuestArch arch);

    [[nodiscard]] GuestArch arch() const noexcept { return arch_; }
    [[nodiscard]] Bus& ports() noexcept { return ports_; }
    [[nodiscard]] Bus& mmio() noexcept { return mmio_; }
    [[nodiscard]] const Bus& ports() const noexcept { return ports_; }
    [[nodiscard]] const Bus& mmio() const noexcept { return mmio_; }

    // At the addresses of devices/addresses.hpp. Throws as Bus::add does, and ArgumentError for a keyboard on aarch64.
    void add_standard(const StandardDevices& devices);
    void seal() noexcept;

private:
    GuestArch arch_;
    Bus ports_;
    Bus mmio_;
};

}  // namespace vmthaw
