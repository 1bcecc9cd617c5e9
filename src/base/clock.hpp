#pragma once

#include <cstdint>
#include <ctime>

namespace vmthaw {

// CLOCK_MONOTONIC in nanoseconds: the clock of every trace record and deadline.
[[nodiscard]] inline std::uint64_t monotonic_ns() noexcept {
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000U + static_cast<std::uint64_t>(now.tv_nsec);
}

}  // namespace vmthaw
