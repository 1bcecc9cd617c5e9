#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <span>

#include "devices/device.hpp"

namespace vmthaw {

// As much of the PC's keyboard controller as guests without a keyboard need: both registers read as 0 (nothing waits),
// and the command 0xFE asks for a reset, which is counted here and acted upon by whoever classifies the exit. Offset 0
// is the data register, 4 the command register. Any thread.
class I8042 final : public Device {
public:
    static constexpr std::uint64_t kCommandOffset = 4;
    static constexpr std::uint8_t kReset = 0xFE;

    [[nodiscard]] DeviceOutcome read(std::uint64_t /*offset*/, std::span<std::uint8_t> out) noexcept override {
        std::ranges::fill(out, std::uint8_t{0});
        return DeviceOutcome::done;
    }
    [[nodiscard]] DeviceOutcome write(std::uint64_t offset, std::span<const std::uint8_t> data) noexcept override {
        if (offset == kCommandOffset && !data.empty() && data.front() == kReset) {
            resets_.fetch_add(1, std::memory_order_relaxed);
        }
        return DeviceOutcome::done;
    }
    [[nodiscard]] std::size_t width_bytes() const noexcept override { return 1; }
    // How often the guest asked for a reset.
    [[nodiscard]] std::uint64_t resets() const noexcept { return resets_.load(std::memory_order_relaxed); }

private:
    std::atomic<std::uint64_t> resets_{0};
};

}  // namespace vmthaw
