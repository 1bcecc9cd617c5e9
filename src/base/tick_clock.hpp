#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <x86intrin.h>
#endif

#include "base/clock.hpp"

namespace vmthaw {

// Intervals measured so often that CLOCK_MONOTONIC's arithmetic counts: the processor's own counter, where Linux keeps
// that clock by it (then it runs evenly and is the same on all processors), else nanoseconds. Ticks count from no
// particular moment; to_ns() measures their length since the clock was made, the longer ago, the finer. Any thread.
class TickClock {
public:
    // `in_ns`: a tick is a nanosecond of CLOCK_MONOTONIC, for who needs moments, not intervals.
    explicit TickClock(bool in_ns = false) : uses_counter_(!in_ns && counter_keeps_time()), start_(read_both()) {}

    [[nodiscard]] std::uint64_t now() const noexcept { return uses_counter_ ? counter() : monotonic_ns(); }
    [[nodiscard]] std::uint64_t to_ns(std::uint64_t ticks) const noexcept;

private:
    struct Both {
        std::uint64_t ticks = 0;
        std::uint64_t ns = 0;
    };

    [[nodiscard]] static std::uint64_t counter() noexcept {
#if defined(__x86_64__)
        return __rdtsc();
#elif defined(__aarch64__)
        std::uint64_t value = 0;
        asm volatile("mrs %0, cntvct_el0" : "=r"(value));
        return value;
#else
        return monotonic_ns();
#endif
    }
    [[nodiscard]] static bool counter_keeps_time();
    [[nodiscard]] static Both read_both() noexcept;

    bool uses_counter_;
    Both start_;
};

}  // namespace vmthaw
