#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "source/compressed/chunk_index.hpp"

namespace vmthaw {

// Reads exactly `out` at a position of the file; false when that cannot be.
using FetchBytes = std::function<bool(std::uint64_t position, std::span<std::byte> out)>;

// zstd's seekable format (facebook/zstd, contrib/seekable_format/zstd_seekable_compression_format.md): frames, and
// behind them a skippable frame with the table of their sizes. The bytes are hostile: nothing is allocated that the
// file's own size does not bound. Throws Error(SourceOpenError), `field` says where.
[[nodiscard]] ChunkIndex read_zstd_seek_table(const std::string& path, std::uint64_t file_size,
                                              const FetchBytes& fetch);

inline constexpr std::uint32_t kZstdSkippableMagic = 0x184D2A5E;
inline constexpr std::uint32_t kZstdSeekableMagic = 0x8F92EAB1;
inline constexpr std::uint64_t kZstdSeekFooterBytes = 9;
inline constexpr std::uint8_t kZstdSeekChecksums = 0x80;

}  // namespace vmthaw
