#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace vmthaw {

// What one vCPU's thread counts, times in ticks of the run loop's TickClock. Written by that thread alone, read by
// anybody.
class VcpuCounters {
public:
    static constexpr std::size_t kReasons = 64;  // the last one counts all from there on

    void count_exit(std::uint32_t reason, std::uint64_t guest_ticks, std::uint64_t host_ticks) noexcept {
        add(reasons_[reason < kReasons ? reason : kReasons - 1], 1);
        add(guest_ticks_, guest_ticks);
        add(host_ticks_, host_ticks);
    }
    void count_interruption(std::uint64_t guest_ticks) noexcept {
        add(interruptions_, 1);
        add(guest_ticks_, guest_ticks);
    }
    void count_handled() noexcept { add(handled_, 1); }

    [[nodiscard]] std::uint64_t exits(std::size_t reason) const noexcept { return read(reasons_.at(reason)); }
    [[nodiscard]] std::uint64_t guest_ticks() const noexcept { return read(guest_ticks_); }
    [[nodiscard]] std::uint64_t host_ticks() const noexcept { return read(host_ticks_); }
    [[nodiscard]] std::uint64_t interruptions() const noexcept { return read(interruptions_); }
    [[nodiscard]] std::uint64_t handled() const noexcept { return read(handled_); }

private:
    using Counter = std::atomic<std::uint64_t>;
    static void add(Counter& counter, std::uint64_t value) noexcept {
        // One writer: a plain sum, without the price of a locked instruction.
        counter.store(counter.load(std::memory_order_relaxed) + value, std::memory_order_relaxed);
    }
    [[nodiscard]] static std::uint64_t read(const Counter& counter) noexcept {
        return counter.load(std::memory_order_relaxed);
    }

    std::array<Counter, kReasons> reasons_{};
    Counter guest_ticks_{0};
    Counter host_ticks_{0};
    Counter interruptions_{0};
    Counter handled_{0};
};

}  // namespace vmthaw
