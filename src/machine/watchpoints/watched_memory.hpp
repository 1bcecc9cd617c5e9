#pragma once

#include <cstdint>

namespace vmthaw {

inline constexpr std::uint64_t kWatchedPageBytes = 4096;

// Four bytes at a multiple of 4 of guest memory, which vCPUs change meanwhile: read in one piece.
// JUSTIFICATION: no object of a C++ type lies in guest memory; the built-in accesses it as the hardware does.
[[nodiscard]] inline std::uint32_t load_word(const void* word) noexcept {
    return __atomic_load_n(static_cast<const std::uint32_t*>(word), __ATOMIC_ACQUIRE);
}

}  // namespace vmthaw
