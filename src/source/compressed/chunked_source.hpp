#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "source/cached/chunk_cache.hpp"
#include "source/compressed/chunk_index.hpp"
#include "source/page_source.hpp"

namespace vmthaw {

// A memory in compressed chunks, wherever their frames come from. A chunk is decompressed on the source thread that
// first wants it, once for all who wait, and then held as long as the cache has room. Chunks of zeros are never read.
// Thread-safe.
class ChunkedSource : public PageSource, private ChunkLoader {
public:
    static constexpr std::uint64_t kDefaultCacheBytes = std::uint64_t{64} << 20U;

    [[nodiscard]] std::uint64_t size() const noexcept override { return index_.size(); }
    // Up to the end of the 4 KiB page that holds the last byte: what lies behind that byte is zeros.
    [[nodiscard]] bool covers(std::uint64_t offset, std::uint64_t size) const noexcept override;
    [[nodiscard]] Extent extent_at(std::uint64_t offset, std::uint64_t limit) const noexcept override;
    [[nodiscard]] ReadResult read(std::uint64_t offset, std::span<std::byte> out) noexcept override;
    // True when every chunk of the range is held or zeros: read() will most likely not wait then. mapped() stays null.
    [[nodiscard]] bool ready(std::uint64_t offset, std::uint64_t size) noexcept override;
    // Copies out of a chunk that is held, on the fault thread: a fault on it needs no source thread.
    [[nodiscard]] bool read_now(std::uint64_t offset, std::span<std::byte> out) noexcept override;
    // Brings the chunks into the cache, as many as it holds at once.
    [[nodiscard]] ReadResult prepare(std::uint64_t offset, std::uint64_t size) noexcept override;
    [[nodiscard]] ReadResult still_whole() const noexcept override;
    [[nodiscard]] std::vector<Extent> extents() const override { return extents_; }
    // For damage: which chunks, where in the file, what is wrong with them and the way out.
    [[nodiscard]] std::string description_at(std::uint64_t offset) const override;
    [[nodiscard]] std::string remedy(const ReadResult& result) const override;
    void close() noexcept override;

    [[nodiscard]] const ChunkIndex& index() const noexcept { return index_; }
    [[nodiscard]] ChunkCacheStats cache_stats() const noexcept { return cache_.stats(); }

protected:
    ChunkedSource(ChunkIndex index, std::uint64_t cache_bytes);

    // Reads the frame of a chunk. On source threads. Throws nothing but bad_alloc.
    [[nodiscard]] virtual ReadResult fetch(std::size_t chunk, std::vector<std::byte>& packed) = 0;
    // Whether what was there at open is still there, as far as that is cheap to ask.
    [[nodiscard]] virtual ReadResult storage_whole() const noexcept { return {}; }
    // Where the frame of a chunk lies and how to mend it, for messages.
    [[nodiscard]] virtual std::string place_of(std::size_t chunk) const = 0;
    [[nodiscard]] virtual std::string way_out() const = 0;

private:
    struct Damage {
        std::size_t chunk;
        const char* why;  // a constant of the program or of a library
    };

    [[nodiscard]] ReadResult load(std::uint64_t number, std::span<std::byte> room) noexcept override;
    [[nodiscard]] ReadResult check(std::uint64_t offset, std::uint64_t size) const noexcept;
    [[nodiscard]] ReadResult damaged(std::size_t chunk, int errno_value, const char* why) noexcept;

    ChunkIndex index_;
    std::vector<Extent> extents_;
    ChunkCache cache_;
    std::atomic<bool> closed_{false};

    mutable std::mutex damage_mutex_;
    std::array<Damage, 8> damage_{};  // the first few that were met
    std::size_t damage_count_ = 0;
};

}  // namespace vmthaw
