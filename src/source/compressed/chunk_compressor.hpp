#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "source/compressed/chunk_index.hpp"

namespace vmthaw {

// Compresses one chunk after another to frames that say how long they are and carry checksums; equal bytes become equal
// frames. For one thread at a time: its tables are used again, which is half the time of a small chunk.
class ChunkCompressor {
public:
    // Levels are the library's own (zstd: up to 22, faster ones below 0; lz4: 0 is fast, 3 to 12 are high compression).
    // Throws ArgumentError for others, bad_alloc.
    ChunkCompressor(ChunkCodec codec, int level);
    ChunkCompressor(const ChunkCompressor&) = delete;
    ChunkCompressor& operator=(const ChunkCompressor&) = delete;
    ChunkCompressor(ChunkCompressor&&) = delete;
    ChunkCompressor& operator=(ChunkCompressor&&) = delete;
    ~ChunkCompressor();

    // The frame, which lives until the next call. Throws bad_alloc.
    [[nodiscard]] std::span<const std::byte> compress(std::span<const std::byte> bytes);

    [[nodiscard]] static int default_level(ChunkCodec codec) noexcept { return codec == ChunkCodec::zstd ? 3 : 0; }

private:
    struct Contexts;
    ChunkCodec codec_;
    int level_;
    std::unique_ptr<Contexts> contexts_;
    std::vector<std::byte> frame_;
};

}  // namespace vmthaw
