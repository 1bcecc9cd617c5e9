#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace vmthaw {

// One zstd frame. Free functions, any thread; only compression throws (bad_alloc, ArgumentError
// for a level that zstd does not have).

// Decompresses the frame (or frames) that `frame` is, all of it, into exactly `out`. Null, or what is wrong.
[[nodiscard]] const char* zstd_decompress(std::span<const std::byte> frame, std::span<std::byte> out) noexcept;

// A frame with its size and a checksum in it.
[[nodiscard]] std::vector<std::byte> zstd_compress(std::span<const std::byte> bytes, int level);

}  // namespace vmthaw
