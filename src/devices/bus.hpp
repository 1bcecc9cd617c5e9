#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "devices/device.hpp"

namespace vmthaw {

struct BusWindow {
    std::uint64_t first = 0;
    std::uint64_t size_bytes = 0;
    std::shared_ptr<Device> device;
    std::string name;
    std::uint64_t device_offset = 0;  // what the device calls the window's first address

    [[nodiscard]] std::uint64_t last() const noexcept { return first + (size_bytes - 1); }
    [[nodiscard]] std::uint64_t offset_of(std::uint64_t address) const noexcept {
        return address - first + device_offset;
    }
};

// Windows of devices, which never overlap. Set up on one thread; once sealed it does not change any more, and any
// thread looks things up without a lock. Owns its devices together with whoever else holds them.
class Bus {
public:
    // `name` ("port", "MMIO") is for messages; addresses are 0 to `last_address`.
    Bus(std::string name, std::uint64_t last_address);

    // Throws ArgumentError for a window that is empty, ends behind the last address or overlaps another, StateError
    // when sealed.
    void add(std::uint64_t first, std::uint64_t size_bytes, std::shared_ptr<Device> device, std::string name,
             std::uint64_t device_offset = 0);
    void seal() noexcept { sealed_.store(true, std::memory_order_release); }

    // The window that `address` lies in, or null.
    [[nodiscard]] const BusWindow* find(std::uint64_t address) const noexcept;
    // The window that all of an access (1 byte or more) lies in, or null.
    [[nodiscard]] const BusWindow* find(std::uint64_t address, std::uint64_t size_bytes) const noexcept;
    // In the order of addresses.
    [[nodiscard]] std::span<const BusWindow> windows() const noexcept { return windows_; }
    [[nodiscard]] const std::string& name() const noexcept { return name_; }

private:
    std::string name_;
    std::uint64_t last_address_;
    std::vector<BusWindow> windows_;
    std::atomic<bool> sealed_{false};
};

}  // namespace vmthaw
