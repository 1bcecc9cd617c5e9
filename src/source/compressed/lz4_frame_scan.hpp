#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "source/compressed/chunk_index.hpp"
#include "source/compressed/zstd_seek_table.hpp"

namespace vmthaw {

// Whether a file that begins so is taken for LZ4 frames.
[[nodiscard]] bool is_lz4_magic(std::span<const std::byte, 4> magic) noexcept;

// A file of LZ4 frames, each with the size of its contents in its header: one pass over the headers of frames and
// blocks, without decompression. Skippable frames are passed by. The bytes are hostile. Throws Error(SourceOpenError),
// `field` says where.
[[nodiscard]] ChunkIndex scan_lz4_frames(const std::string& path, std::uint64_t file_size, const FetchBytes& fetch);

}  // namespace vmthaw
