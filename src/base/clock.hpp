#pragma once

#include <cstdint>
#include <ctime>

namespace vmthaw {

inline constexpr std::uint64_t kSecond_ns = 1'000'000'000;

[[nodiscard]] inline std::uint64_t clock_ns(clockid_t clock) noexcept {
    timespec now{};
    ::clock_gettime(clock, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * kSecond_ns + static_cast<std::uint64_t>(now.tv_nsec);
}

// CLOCK_MONOTONIC in nanoseconds: the clock of every trace record and deadline.
[[nodiscard]] inline std::uint64_t monotonic_ns() noexcept { return clock_ns(CLOCK_MONOTONIC); }

// What the calling thread had of its processor, a guest's part included. While another has it nothing that is measured
// runs: a measurement that lost it is none the longer.
[[nodiscard]] inline std::uint64_t thread_time_ns() noexcept { return clock_ns(CLOCK_THREAD_CPUTIME_ID); }

// The moment `delay_ns` from now; "for ever" stays that, instead of wrapping round into the past.
[[nodiscard]] inline std::uint64_t deadline_ns(std::uint64_t delay_ns) noexcept {
    const std::uint64_t now_ns = monotonic_ns();
    return delay_ns < ~now_ns ? now_ns + delay_ns : ~std::uint64_t{0};
}

}  // namespace vmthaw
