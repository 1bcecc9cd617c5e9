#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace vmthaw {

// What one vCPU's thread counts. Written by that thread alone, read by anybody.
class VcpuCounters {
public:
    static constexpr std::size_t kReasons = 64;  // the last one counts all from there on

    void count_exit(std::uint32_t reason, std::uint64_t guest_ns, std::uint64_t host_ns) noexcept {
        add(reasons_[reason < kReasons ? reason : kReasons - 1], 1);
        add(guest_ns_, guest_ns);
        add(host_ns_, host_ns);
    }
    void count_interruption(std::uint64_t guest_ns) noexcept {
        add(interruptions_, 1);
        add(guest_ns_, guest_ns);
    }
    void count_handled() noexcept { add(handled_, 1); }

    [[nodiscard]] std::uint64_t exits(std::size_t reason) const noexcept { return read(reasons_.at(reason)); }
    [[nodiscard]] std::uint64_t guest_ns() const noexcept { return read(guest_ns_); }
    [[nodiscard]] std::uint64_t host_ns() const noexcept { return read(host_ns_); }
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
    Counter guest_ns_{0};
    Counter host_ns_{0};
    Counter interruptions_{0};
    Counter handled_{0};
};

}  // namespace vmthaw
