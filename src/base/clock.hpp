#pragma once

#include <cstdint>
#include <ctime>

namespace vmthaw {

inline constexpr std::uint64_t kSecond_ns = 1'000'000'000;

// CLOCK_MONOTONIC in nanoseconds: the clock of every trace record and deadline.
[[nodiscard]] inline std::uint64_t monotonic_ns() noexcept {
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * kSecond_ns + static_cast<std::uint64_t>(now.tv_nsec);
}

// The moment `delay_ns` from now; "for ever" stays that, instead of wrapping round into the past.
[[nodiscard]] inline std::uint64_t deadline_ns(std::uint64_t delay_ns) noexcept {
    const std::uint64_t now_ns = monotonic_ns();
    return delay_ns < ~now_ns ? now_ns + delay_ns : ~std::uint64_t{0};
}

}  // namespace vmthaw
