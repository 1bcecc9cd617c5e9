#include "source/compressed/chunk_index.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>

#include "base/error.hpp"
#include "base/page.hpp"
#include "source/compressed/lz4_frame.hpp"
#include "source/compressed/lz4_frame_scan.hpp"
#include "source/compressed/zstd_frame.hpp"
#include "source/compressed/zstd_seek_table.hpp"
#include "source/file/backing_file.hpp"

namespace vmthaw {

void refuse_index(const std::string& path, const std::string& field, const std::string& why) {
    throw Error("cannot open page source " + path + ": " + field + ": " + why, "SourceOpenError",
                {{"path", path}, {"errno", std::int64_t{0}}, {"field", field}});
}

const char* decompress_chunk(ChunkCodec codec, std::span<const std::byte> frame, std::span<std::byte> out) noexcept {
    return codec == ChunkCodec::zstd ? zstd_decompress(frame, out) : lz4_decompress(frame, out);
}

void ChunkIndex::add(const std::string& path, std::uint64_t position, std::uint64_t bytes, std::uint64_t packed_bytes,
                     std::uint32_t checksum) {
    const std::string field = "chunks[" + std::to_string(chunks_.size()) + "]";
    if (chunks_.size() >= kMostChunks) {
        refuse_index(path, field, "there are more than " + std::to_string(kMostChunks) + " chunks: use larger ones");
    }
    if (bytes == 0 || bytes > kLargestChunk) {
        refuse_index(path, field,
                     "it has " + std::to_string(bytes) + " bytes of memory; a chunk has up to " +
                         std::to_string(kLargestChunk) + " (compress_file with chunk= writes such)");
    }
    if (packed_bytes == 0 || packed_bytes > std::numeric_limits<std::uint32_t>::max()) {
        refuse_index(path, field, "its frame has " + std::to_string(packed_bytes) + " bytes");
    }
    if (!chunks_.empty() && chunks_.back().bytes % kPageBytes != 0) {
        refuse_index(
            path, "chunks[" + std::to_string(chunks_.size() - 1) + "]",
            "it has " + std::to_string(chunks_.back().bytes) +
                " bytes of memory, not a multiple of 4096, and is not the last: a page would lie in two chunks");
    }
    chunks_.push_back({size_, position, static_cast<std::uint32_t>(bytes), static_cast<std::uint32_t>(packed_bytes),
                       checksum, false});
    size_ += bytes;
    largest_ = std::max(largest_, bytes);
}

void ChunkIndex::add_zeros(const std::string& path, std::uint64_t bytes) {
    add(path, 0, bytes, 1);
    chunks_.back().packed_bytes = 0;
    chunks_.back().zero = true;
}

void ChunkIndex::equate(std::size_t chunk, std::size_t earlier) {
    if (held_as_.empty()) {
        held_as_.resize(chunks_.size());
        std::iota(held_as_.begin(), held_as_.end(), 0);
    }
    held_as_[chunk] = held_as_[earlier];
}

void ChunkIndex::finish(const std::string& path) {
    if (chunks_.empty()) {
        refuse_index(path, "chunks", "there are none: was the file written to its end?");
    }
    chunks_.shrink_to_fit();
    const std::uint32_t first = chunks_.front().bytes;
    const bool is_uniform =
        std::all_of(chunks_.begin(), chunks_.end() - 1, [first](const Chunk& chunk) { return chunk.bytes == first; }) &&
        chunks_.back().bytes <= first;
    uniform_ = is_uniform ? first : 0;
}

std::size_t ChunkIndex::find(std::uint64_t offset) const noexcept {
    if (uniform_ != 0) {
        return offset / uniform_;
    }
    const auto next = std::upper_bound(chunks_.begin(), chunks_.end(), offset,
                                       [](std::uint64_t value, const Chunk& chunk) { return value < chunk.start; });
    return static_cast<std::size_t>(next - chunks_.begin()) - 1;
}

std::vector<Extent> ChunkIndex::extents() const {
    std::vector<Extent> result;
    for (const Chunk& chunk : chunks_) {
        const ExtentKind kind = chunk.zero ? ExtentKind::zero : ExtentKind::data;
        if (!result.empty() && result.back().kind == kind) {
            result.back().size += chunk.bytes;
        } else {
            result.push_back({chunk.start, chunk.bytes, kind});
        }
    }
    return result;
}

ChunkIndex read_chunk_index(const BackingFile& file) {
    std::array<std::byte, 4> magic{};
    if (!file.read_at(0, magic).ok()) {
        refuse_index(file.path(), "magic", "the file has fewer than 4 bytes");
    }
    const auto fetch = [&file](std::uint64_t position, std::span<std::byte> out) {
        return file.read_at(position, out).ok();
    };
    ChunkIndex index = is_lz4_magic(magic) ? scan_lz4_frames(file.path(), file.size(), fetch)
                                           : read_zstd_seek_table(file.path(), file.size(), fetch);
    index.find_zeros(file);
    return index;
}

}  // namespace vmthaw
