#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "source/page_source.hpp"

namespace vmthaw {

// Fills `out` with the bytes at `position` of a file, however many calls that takes. `got_bytes` says how many there
// were before its end (short_read) or an error.
[[nodiscard]] ReadResult read_whole(int fd, std::uint64_t position, std::span<std::byte> out) noexcept;

}  // namespace vmthaw
