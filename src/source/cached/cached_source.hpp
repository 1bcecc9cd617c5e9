#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "source/cached/chunk_cache.hpp"
#include "source/cached/disk_chunks.hpp"
#include "source/page_source.hpp"

namespace vmthaw {

struct CachedSourceConfig {
    std::uint64_t chunk_bytes = std::uint64_t{1} << 20U;  // a power of two from 4 KiB to 64 MiB
    std::uint64_t memory_bytes = std::uint64_t{256} << 20U;
    std::optional<DiskChunksConfig> disk;
};

// A source that is far away, read in aligned chunks, each fetched once however many faults wait for it, and kept in
// memory, and on disk where one is given, as far as there is room. Zeros are never fetched. Thread-safe; owns its
// source together with others. Fetching blocks: source threads do it, the fault path takes what memory holds.
class CachedSource final : public PageSource, private ChunkLoader {
public:
    // Throws ArgumentError, or SystemError of the disk cache.
    CachedSource(std::shared_ptr<PageSource> source, CachedSourceConfig config);

    [[nodiscard]] std::uint64_t start() const noexcept override { return source_->start(); }
    [[nodiscard]] std::uint64_t size() const noexcept override { return source_->size(); }
    [[nodiscard]] bool covers(std::uint64_t offset, std::uint64_t size) const noexcept override {
        return source_->covers(offset, size);
    }
    [[nodiscard]] Extent extent_at(std::uint64_t offset, std::uint64_t limit) const noexcept override {
        return source_->extent_at(offset, limit);
    }
    [[nodiscard]] ReadResult read(std::uint64_t offset, std::span<std::byte> out) noexcept override;
    [[nodiscard]] bool ready(std::uint64_t offset, std::uint64_t size) noexcept override;
    [[nodiscard]] bool read_now(std::uint64_t offset, std::span<std::byte> out) noexcept override;
    [[nodiscard]] ReadResult still_whole() const noexcept override { return source_->still_whole(); }
    [[nodiscard]] ReadResult whole_at(std::uint64_t offset) const noexcept override {
        return source_->whole_at(offset);
    }
    [[nodiscard]] ReadResult whole_lately(std::uint64_t offset, std::uint64_t now_ns) const noexcept override {
        return source_->whole_lately(offset, now_ns);
    }
    [[nodiscard]] std::vector<Extent> extents() const override { return source_->extents(); }
    [[nodiscard]] SourceTier tier(std::uint64_t offset) const noexcept override { return source_->tier(offset); }
    [[nodiscard]] std::string description() const override { return "cache over " + source_->description(); }
    // With the chunk: what was read at once need not have failed at `offset`.
    [[nodiscard]] std::string description_at(std::uint64_t offset) const override;
    [[nodiscard]] std::string remedy(const ReadResult& result) const override { return source_->remedy(result); }
    void close() noexcept override;

    [[nodiscard]] ChunkCacheStats memory_stats() const noexcept { return cache_.stats(); }
    [[nodiscard]] DiskChunksStats disk_stats() const noexcept;
    [[nodiscard]] std::uint64_t chunk_bytes() const noexcept { return chunk_bytes_; }

private:
    struct Place {
        std::uint64_t chunk;
        std::uint64_t inside;
        std::uint64_t room;  // bytes of the chunk from there on
    };

    [[nodiscard]] bool holds_bytes_of(std::uint64_t offset, std::uint64_t size) const noexcept;
    [[nodiscard]] Place place_of(std::uint64_t offset) const noexcept;
    [[nodiscard]] ReadResult load(std::uint64_t chunk, std::span<std::byte> room) noexcept override;

    std::shared_ptr<PageSource> source_;
    std::uint64_t chunk_bytes_;
    std::unique_ptr<DiskChunks> disk_;
    ChunkCache cache_;
    std::atomic<bool> closed_{false};
};

}  // namespace vmthaw
