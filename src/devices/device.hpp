#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace vmthaw {

// `failed`: the device itself broke (one written in Python raised); the VM cannot go on as if nothing had been.
enum class DeviceOutcome : std::uint8_t { done, failed };

// Whatever answers accesses within a window of a bus. Called by several vCPU threads at once, which hold no lock;
// offsets are hostile. Implementations in C++ never take the GIL, throw nothing and wait for nobody.
class Device {
public:
    Device() = default;
    Device(const Device&) = delete;
    Device& operator=(const Device&) = delete;
    virtual ~Device() = default;

    // Fills all of `out` (1 to 8 bytes, at a port at most width_bytes()), or fails.
    [[nodiscard]] virtual DeviceOutcome read(std::uint64_t offset, std::span<std::uint8_t> out) noexcept = 0;
    [[nodiscard]] virtual DeviceOutcome write(std::uint64_t offset, std::span<const std::uint8_t> data) noexcept = 0;
    // Of the widest access that it takes. Of a wider one it gets the first bytes to write, and answers the first at a
    // port; of a wider read of MMIO it says what the others are.
    [[nodiscard]] virtual std::size_t width_bytes() const noexcept { return 8; }
};

}  // namespace vmthaw
