#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace vmthaw {

// One LZ4 frame (the .lz4 format, not a bare block), with its checksums where it has them. Sizes are known beforehand,
// so that nothing grows with what a frame claims. Free functions, any thread; only compression throws (bad_alloc).

// Decompresses the frame that `frame` is, all of it, into exactly `out`. Null, or a sentence part that says what is
// wrong: "it decompresses to more than it says", the library's own message, ...
[[nodiscard]] const char* lz4_decompress(std::span<const std::byte> frame, std::span<std::byte> out) noexcept;

// A frame of 4 MiB blocks with block and content checksums.
[[nodiscard]] std::vector<std::byte> lz4_compress(std::span<const std::byte> bytes);

}  // namespace vmthaw
