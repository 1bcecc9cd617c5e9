#include "devices/serial.hpp"

#include <algorithm>
#include <utility>

namespace vmthaw {
namespace {

// Registers.
constexpr std::uint64_t kData = 0, kIer = 1, kIirFcr = 2, kLcr = 3, kMcr = 4, kLsr = 5, kMsr = 6, kScr = 7;
constexpr std::uint64_t kWindowEnd = 256;

constexpr std::uint8_t kIerReceived = 1, kIerTransmitter = 2, kIerLine = 4, kIerModem = 8;
constexpr std::uint8_t kIirNone = 1, kIirModem = 0, kIirTransmitter = 2, kIirReceived = 4, kIirLine = 6;
constexpr std::uint8_t kIirTimeout = 0x0C, kIirFifo = 0xC0;
constexpr std::uint8_t kFcrEnable = 1, kFcrClearReceiver = 2, kFcrKept = 0xC9;
constexpr std::uint8_t kLcrDivisorLatch = 0x80;
constexpr std::uint8_t kMcrLoopback = 0x10, kMcrKept = 0x1F;
constexpr std::uint8_t kLsrReady = 1, kLsrOverrun = 2, kLsrEmpty = 0x60;  // holding register and transmitter
// Modem lines: CTS, DSR, RI, DCD, from bit 4 on; the changes in bits 0 to 3, of RI only its end.
constexpr std::uint8_t kMsrRing = 0x40, kMsrRingEnded = 4, kMsrChanges = 0x0F, kMsrLines = 0xF0;
constexpr std::uint8_t kMsrConnected = 0xB0;  // CTS, DSR and DCD: somebody is there

std::uint8_t u8(unsigned value) noexcept { return static_cast<std::uint8_t>(value & 0xFFU); }

// In loopback the outputs are the inputs: RTS is CTS, DTR is DSR, OUT1 is RI, OUT2 is DCD.
std::uint8_t modem_lines(std::uint8_t mcr) noexcept {
    if ((mcr & kMcrLoopback) == 0) {
        return kMsrConnected;
    }
    return u8((mcr & 2U) << 3U | (mcr & 1U) << 5U | (mcr & 4U) << 4U | (mcr & 8U) << 4U);
}

}  // namespace

Serial::Serial(std::shared_ptr<ByteSink> output, std::shared_ptr<InterruptLine> interrupt)
    : output_(std::move(output)), pin_(std::move(interrupt)), msr_(kMsrConnected) {}

bool Serial::divisor_latched() const noexcept { return (lcr_ & kLcrDivisorLatch) != 0; }

std::size_t Serial::capacity() const noexcept { return fifo_enabled() ? kFifoBytes : 1; }

std::size_t Serial::trigger() const noexcept {
    constexpr std::array<std::size_t, 4> kLevels = {1, 4, 8, 14};
    return fifo_enabled() ? kLevels[fcr_ >> 6U] : 1;
}

// The interrupt of the highest priority, as IIR names it.
std::uint8_t Serial::pending() const noexcept {
    if ((ier_ & kIerLine) != 0 && line_errors_ != 0) {
        return kIirLine;
    }
    if ((ier_ & kIerReceived) != 0 && waiting_ > 0) {
        return waiting_ >= trigger() ? kIirReceived : kIirTimeout;
    }
    if ((ier_ & kIerTransmitter) != 0 && transmitter_pending_) {
        return kIirTransmitter;
    }
    if ((ier_ & kIerModem) != 0 && (msr_ & kMsrChanges) != 0) {
        return kIirModem;
    }
    return kIirNone;
}

std::uint8_t Serial::pop() noexcept {
    if (waiting_ == 0) {
        return 0;
    }
    const std::uint8_t value = fifo_[first_];
    first_ = (first_ + 1) % kFifoBytes;
    --waiting_;
    return value;
}

void Serial::push(std::uint8_t value) noexcept {
    fifo_[(first_ + waiting_) % kFifoBytes] = value;
    ++waiting_;
}

void Serial::clear_fifo() noexcept {
    first_ = 0;
    waiting_ = 0;
}

// A full FIFO loses the newcomer; without FIFO the newcomer replaces what nobody read.
void Serial::push_looped(std::uint8_t value) noexcept {
    if (waiting_ >= capacity()) {
        line_errors_ |= kLsrOverrun;
        if (fifo_enabled()) {
            return;
        }
        clear_fifo();
    }
    push(value);
}

bool Serial::transmit(std::uint8_t value) noexcept {
    transmitter_pending_ = true;  // filled and, at once, empty again
    if ((mcr_ & kMcrLoopback) == 0) {
        return true;
    }
    push_looped(value);
    return false;
}

void Serial::write_fcr(std::uint8_t value) noexcept {
    const bool toggled = ((value ^ fcr_) & kFcrEnable) != 0;
    if (toggled || (value & kFcrClearReceiver) != 0) {
        clear_fifo();
    }
    // The other bits are programmed only together with bit 0.
    fcr_ = (value & kFcrEnable) != 0 ? u8(value & kFcrKept) : std::uint8_t{0};
}

void Serial::write_mcr(std::uint8_t value) noexcept {
    mcr_ = u8(value & kMcrKept);
    const std::uint8_t lines = modem_lines(mcr_);
    const std::uint8_t before = u8(msr_ & kMsrLines);
    unsigned changes = (lines ^ before) >> 4U;
    if ((lines & kMsrRing) != 0) {
        changes &= ~unsigned{kMsrRingEnded};  // only the end of ringing counts
    }
    msr_ = u8(lines | (msr_ & kMsrChanges) | changes);
}

[[gnu::hot]] std::uint8_t Serial::read_register(std::uint64_t offset) noexcept {
    switch (offset) {
        case kData:
            return divisor_latched() ? u8(divisor_) : pop();
        case kIer:
            return divisor_latched() ? u8(divisor_ >> 8U) : ier_;
        case kIirFcr: {
            const std::uint8_t cause = pending();
            if (cause == kIirTransmitter) {
                transmitter_pending_ = false;
            }
            return u8(cause | (fifo_enabled() ? kIirFifo : 0U));
        }
        case kLcr:
            return lcr_;
        case kMcr:
            return mcr_;
        case kLsr: {
            const unsigned status = kLsrEmpty | line_errors_ | (waiting_ > 0 ? kLsrReady : 0U);
            line_errors_ = 0;
            return u8(status);
        }
        case kMsr: {
            const std::uint8_t status = msr_;
            msr_ = u8(msr_ & kMsrLines);
            return status;
        }
        case kScr:
            return scr_;
        default:
            return offset < kWindowEnd ? 0 : 0xFF;
    }
}

[[gnu::hot]] bool Serial::write_register(std::uint64_t offset, std::uint8_t value) noexcept {
    switch (offset) {
        case kData:
            if (!divisor_latched()) {
                return transmit(value);
            }
            divisor_ = static_cast<std::uint16_t>((divisor_ & 0xFF00U) | value);
            break;
        case kIer:
            if (divisor_latched()) {
                divisor_ = static_cast<std::uint16_t>((divisor_ & 0x00FFU) | unsigned{value} << 8U);
                break;
            }
            if ((value & ~ier_ & kIerTransmitter) != 0) {
                transmitter_pending_ = true;  // enabling it with an empty transmitter is a cause, too
            }
            ier_ = u8(value & 0x0FU);
            break;
        case kIirFcr:
            write_fcr(value);
            break;
        case kLcr:
            lcr_ = value;
            break;
        case kMcr:
            write_mcr(value);
            break;
        case kScr:
            scr_ = value;
            break;
        default:  // LSR and MSR are the chip's to write
            break;
    }
    return false;
}

[[gnu::hot]] DeviceOutcome Serial::read(std::uint64_t offset, std::span<std::uint8_t> out) noexcept {
    std::ranges::fill(out, offset < kWindowEnd ? std::uint8_t{0} : std::uint8_t{0xFF});
    if (out.empty() || guard_.inherited()) {
        return DeviceOutcome::done;
    }
    {
        const std::lock_guard lock(mutex_);
        out.front() = read_register(offset);
        pin_.set(pending() != kIirNone);
    }
    return pin_.deliver();
}

[[gnu::hot]] DeviceOutcome Serial::write(std::uint64_t offset, std::span<const std::uint8_t> data) noexcept {
    if (data.empty() || guard_.inherited()) {
        return DeviceOutcome::done;
    }
    {
        const std::lock_guard lock(mutex_);
        if (write_register(offset, data.front()) && output_) {
            output_->write(data.first(1));  // under the lock: bytes of two vCPUs come out in the order of their writes
        }
        pin_.set(pending() != kIirNone);
    }
    return pin_.deliver();
}

Serial::Received Serial::receive(std::span<const std::uint8_t> data) noexcept {
    Received received;
    if (guard_.inherited()) {
        return received;
    }
    {
        const std::lock_guard lock(mutex_);
        if ((mcr_ & kMcrLoopback) == 0) {
            received.bytes = std::min(data.size(), capacity() - waiting_);
        }
        for (const std::uint8_t value : data.first(received.bytes)) {
            push(value);
        }
        pin_.set(pending() != kIirNone);
    }
    received.outcome = pin_.deliver();
    return received;
}

Serial::Registers Serial::registers() const {
    guard_.check("Serial");
    const std::lock_guard lock(mutex_);
    return {.ier = ier_,
            .iir = u8(pending() | (fifo_enabled() ? kIirFifo : 0U)),
            .fcr = fcr_,
            .lcr = lcr_,
            .mcr = mcr_,
            .lsr = u8(kLsrEmpty | line_errors_ | (waiting_ > 0 ? kLsrReady : 0U)),
            .msr = msr_,
            .scr = scr_,
            .divisor = divisor_,
            .waiting_bytes = waiting_};
}

}  // namespace vmthaw
