#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "source/compressed/chunk_index.hpp"
#include "source/page_source.hpp"

namespace vmthaw {

struct CompressOptions {
    ChunkCodec codec = ChunkCodec::zstd;
    std::uint64_t chunk_bytes = std::uint64_t{64} << 10U;
    std::optional<int> level;  // the codec's default
    unsigned threads = 0;      // 0: one for each processor
};

struct CompressResult {
    std::uint64_t bytes = 0;
    std::uint64_t packed_bytes = 0;  // of the file, its index among them
    std::uint64_t chunks = 0;
    std::uint64_t zero_chunks = 0;
};

// Called on the caller's thread, several times a second and at the end. What it throws ends the work.
using CompressProgress = std::function<void(std::uint64_t done_bytes, std::uint64_t total_bytes)>;

// Writes what `source` is, from offset 0 on, as CompressedSource reads it: zstd's seekable format with checksums, or
// LZ4 frames with their sizes; both can be decompressed whole by the codec's own tool. Zero extents are not read. The
// file appears complete or not at all. Throws ArgumentError, SystemError, what reading the source throws, and what
// `progress` throws.
CompressResult compress_file(PageSource& source, const std::string& path, const CompressOptions& options,
                             const CompressProgress& progress);

}  // namespace vmthaw
