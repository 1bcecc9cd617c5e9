#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>

#include "base/fork_guard.hpp"
#include "devices/byte_sink.hpp"
#include "devices/device.hpp"
#include "devices/interrupt_pin.hpp"

namespace vmthaw {

// A 16550A (National Semiconductor's data sheet) with a receive FIFO of 64 bytes, whose transmitter is always empty:
// what the guest sends is gone to the sink at once. Registers 0 to 7; offsets up to 255 read as 0, others as 0xFF.
// Bytes below the trigger level count as timed out at once. The interrupt is the chip's INTR pin, which OUT2 does not
// gate. Thread-safe: the sink, which waits for nobody, is called under the port's lock, the line without it. Inert
// after fork().
class Serial final : public Device {
public:
    static constexpr std::size_t kFifoBytes = 64;

    // Without a sink output vanishes, without a line there are no interrupts.
    explicit Serial(std::shared_ptr<ByteSink> output = nullptr, std::shared_ptr<InterruptLine> interrupt = nullptr);

    [[nodiscard]] DeviceOutcome read(std::uint64_t offset, std::span<std::uint8_t> out) noexcept override;
    [[nodiscard]] DeviceOutcome write(std::uint64_t offset, std::span<const std::uint8_t> data) noexcept override;
    [[nodiscard]] std::size_t width_bytes() const noexcept override { return 1; }

    struct Received {
        std::size_t bytes = 0;
        DeviceOutcome outcome = DeviceOutcome::done;
    };
    // Gives the guest bytes to read: as many as the FIFO has room for (1 while it is disabled, 0 in loopback).
    [[nodiscard]] Received receive(std::span<const std::uint8_t> data) noexcept;

    // The registers as a debugger would show them; reading them changes nothing.
    struct Registers {
        std::uint8_t ier = 0, iir = 0, fcr = 0, lcr = 0, mcr = 0, lsr = 0, msr = 0, scr = 0;
        std::uint16_t divisor = 0;
        std::size_t waiting_bytes = 0;
    };
    [[nodiscard]] Registers registers() const;
    void check_process() const { guard_.check("Serial"); }

private:
    [[nodiscard]] std::uint8_t read_register(std::uint64_t offset) noexcept;
    // Gives true when `value` goes out.
    [[nodiscard]] bool write_register(std::uint64_t offset, std::uint8_t value) noexcept;
    void write_fcr(std::uint8_t value) noexcept;
    void write_mcr(std::uint8_t value) noexcept;
    [[nodiscard]] bool transmit(std::uint8_t value) noexcept;
    void push_looped(std::uint8_t value) noexcept;
    [[nodiscard]] std::uint8_t pop() noexcept;
    void push(std::uint8_t value) noexcept;
    [[nodiscard]] std::size_t capacity() const noexcept;
    [[nodiscard]] std::size_t trigger() const noexcept;
    [[nodiscard]] std::uint8_t pending() const noexcept;
    [[nodiscard]] bool fifo_enabled() const noexcept { return (fcr_ & 1U) != 0; }
    [[nodiscard]] bool divisor_latched() const noexcept;
    void clear_fifo() noexcept;

    ForkGuard guard_;
    std::shared_ptr<ByteSink> output_;
    InterruptPin pin_;
    mutable std::mutex mutex_;
    std::array<std::uint8_t, kFifoBytes> fifo_{};
    std::size_t first_ = 0;
    std::size_t waiting_ = 0;
    std::uint16_t divisor_ = 12;  // 9600 baud from 1.8432 MHz
    std::uint8_t ier_ = 0, fcr_ = 0, lcr_ = 0, mcr_ = 0, scr_ = 0;
    std::uint8_t line_errors_ = 0;  // LSR bits 1 to 4
    std::uint8_t msr_ = 0;
    bool transmitter_pending_ = false;
};

}  // namespace vmthaw
