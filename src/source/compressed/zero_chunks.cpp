#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "source/compressed/chunk_index.hpp"
#include "source/file/backing_file.hpp"

namespace vmthaw {
namespace {

// Zeros come in runs, and a frame of them takes some 30 bytes: hundreds in one read.
constexpr std::uint64_t kWindowBytes = std::uint64_t{16} << 10U;
// Frames that are no two alike say nothing of each other: after this many, what is not known is data.
constexpr std::size_t kMostFramesTried = 64;

// The most bytes that zeros take: headers, and for lz4 a 255th of them; for zstd a few bytes for each 128 KiB.
std::uint64_t most_zero_bytes(ChunkCodec codec, std::uint64_t bytes) noexcept {
    constexpr std::uint64_t kHeaders = 64;
    return codec == ChunkCodec::zstd ? kHeaders + bytes / 4096 : kHeaders + bytes / 200;
}

}  // namespace

void ChunkIndex::find_zeros(const BackingFile& file) {
    std::map<std::pair<std::uint32_t, std::vector<std::byte>>, bool> known;
    std::vector<std::byte> window;
    std::vector<std::byte> decompressed;
    std::uint64_t window_start = 0;
    for (Chunk& chunk : chunks_) {
        if (chunk.packed_bytes > most_zero_bytes(codec_, chunk.bytes)) {
            continue;
        }
        if (chunk.position < window_start || chunk.position - window_start > window.size() ||
            window.size() - (chunk.position - window_start) < chunk.packed_bytes) {
            window_start = chunk.position;
            window.resize(std::min(std::max<std::uint64_t>(kWindowBytes, chunk.packed_bytes),
                                   file.size() - std::min(file.size(), window_start)));
            if (window.size() < chunk.packed_bytes || !file.read_at(window_start, window).ok()) {
                return;  // whoever reads such a chunk is told
            }
        }
        const auto begin = window.begin() + static_cast<std::ptrdiff_t>(chunk.position - window_start);
        std::pair<std::uint32_t, std::vector<std::byte>> key(chunk.bytes, {begin, begin + chunk.packed_bytes});
        const auto found = known.find(key);
        if (found != known.end()) {
            chunk.zero = found->second;
            continue;
        }
        if (known.size() >= kMostFramesTried) {
            continue;
        }
        decompressed.assign(chunk.bytes, std::byte{1});
        chunk.zero =
            decompress_chunk(codec_, key.second, decompressed) == nullptr &&
            std::all_of(decompressed.begin(), decompressed.end(), [](std::byte byte) { return byte == std::byte{0}; });
        known.emplace(std::move(key), chunk.zero);
    }
}

}  // namespace vmthaw
