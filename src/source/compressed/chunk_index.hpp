#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "source/page_source.hpp"

namespace vmthaw {

class BackingFile;

enum class ChunkCodec : std::uint8_t { zstd, lz4 };

inline constexpr std::uint64_t kSmallestChunk = 4096;
inline constexpr std::uint64_t kLargestChunk = std::uint64_t{4} << 20U;
inline constexpr std::uint64_t kMostChunks = std::uint64_t{1} << 24U;

// `bytes` of memory at `start`, in `packed_bytes` at `position` of the file.
struct Chunk {
    std::uint64_t start;
    std::uint64_t position;
    std::uint32_t bytes;
    std::uint32_t packed_bytes;
    std::uint32_t checksum = 0;  // of the memory's bytes: the low half of XXH64, where the index has them
    bool zero = false;
};

// Which chunk of a compressed file has which bytes. A plain value, filled once. Lookups are O(1) where all chunks but
// the last are as large as the first, else O(log chunks), and never allocate.
class ChunkIndex {
public:
    ChunkIndex(ChunkCodec codec, bool has_checksums) : codec_(codec), has_checksums_(has_checksums) {}

    // Appends `bytes` of memory. Throws Error(SourceOpenError) that names "chunks[i]" when no chunk may be like that.
    void add(const std::string& path, std::uint64_t position, std::uint64_t bytes, std::uint64_t packed_bytes,
             std::uint32_t checksum = 0);
    // Appends zeros, which are nowhere in the file.
    void add_zeros(const std::string& path, std::uint64_t bytes);
    // Says that a chunk has the bytes of an earlier one: both are held once, as that one.
    void equate(std::size_t chunk, std::size_t earlier);
    // Refuses an index without chunks. The last of the file may be of any size, those before it are whole pages.
    void finish(const std::string& path);
    // Finds out which chunks are nothing but zeros: equal frames are decompressed once, and only those that are small
    // enough to be zeros are read at all.
    void find_zeros(const BackingFile& file);

    [[nodiscard]] std::size_t find(std::uint64_t offset) const noexcept;  // offset < size()
    [[nodiscard]] const Chunk& operator[](std::size_t chunk) const noexcept { return chunks_[chunk]; }
    // The chunk that has the same bytes and comes first, mostly `chunk` itself.
    [[nodiscard]] std::size_t held_as(std::size_t chunk) const noexcept {
        return held_as_.empty() ? chunk : held_as_[chunk];
    }
    [[nodiscard]] std::size_t count() const noexcept { return chunks_.size(); }
    [[nodiscard]] std::uint64_t size() const noexcept { return size_; }
    [[nodiscard]] std::uint64_t largest() const noexcept { return largest_; }
    [[nodiscard]] ChunkCodec codec() const noexcept { return codec_; }
    [[nodiscard]] bool has_checksums() const noexcept { return has_checksums_; }
    // All of [0, size()) in order, kinds alternating.
    [[nodiscard]] std::vector<Extent> extents() const;

private:
    std::vector<Chunk> chunks_;
    std::vector<std::uint32_t> held_as_;  // empty where no two are known to be equal
    ChunkCodec codec_;
    bool has_checksums_;
    std::uint64_t size_ = 0;
    std::uint64_t largest_ = 0;
    std::uint64_t uniform_ = 0;  // the size of all chunks but the last, or 0
};

// Reads whichever index the file has. Throws Error(SourceOpenError), `field` says where.
[[nodiscard]] ChunkIndex read_chunk_index(const BackingFile& file);

// Throws Error(SourceOpenError) for a compressed file that is not what it should be.
[[noreturn]] void refuse_index(const std::string& path, const std::string& field, const std::string& why);

// Decompresses one frame into exactly `out`: null, or what is wrong.
[[nodiscard]] const char* decompress_chunk(ChunkCodec codec, std::span<const std::byte> frame,
                                           std::span<std::byte> out) noexcept;

}  // namespace vmthaw
