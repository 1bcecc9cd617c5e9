#pragma once

#include <cstdint>

namespace vmthaw {

// The smallest page of guest and host, of either architecture as vmthaw runs it.
inline constexpr std::uint64_t kPageBytes = 4096;

// `unit` is a power of two; `value` at least that far from the end of 64 bits.
[[nodiscard]] constexpr std::uint64_t round_up(std::uint64_t value, std::uint64_t unit) noexcept {
    return (value + unit - 1) & ~(unit - 1);
}

}  // namespace vmthaw
