#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace vmthaw {

// XXH64 with seed 0 (github.com/Cyan4973/xxHash, doc/xxhash_spec.md): the checksum in zstd's seek tables. Not
// cryptographic. Any thread.
[[nodiscard]] std::uint64_t xxh64(std::span<const std::byte> bytes) noexcept;

}  // namespace vmthaw
