#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "source/cached/chunk_cache.hpp"
#include "source/layered/layered_header.hpp"
#include "source/layered/layered_map.hpp"
#include "source/page_source.hpp"

namespace vmthaw {

// A memory whose header says in which build each block lies. Zeros are never read; compressed builds are decompressed
// frame by frame, on whoever calls read(), each once for all who wait. Thread-safe; owns its builds together with
// others, and closes them. The constructor throws Error(SourceOpenError), which names the build, its source and the
// range that is missing.
class LayeredSource final : public PageSource, private ChunkLoader {
public:
    using Builds = std::map<Uuid, std::shared_ptr<PageSource>>;
    static constexpr std::size_t kCacheBytes = std::size_t{64} << 20U;

    // `builds` has every build that mappings use; a compressed build's source is its compressed file. Up to
    // `cache_bytes` of decompressed frames are held, never fewer than two.
    LayeredSource(const LayeredHeader& header, const Builds& builds, std::size_t cache_bytes = kCacheBytes);

    [[nodiscard]] std::uint64_t size() const noexcept override { return map_.size(); }
    // Up to the end of the 4 KiB page that holds the last byte; the rest of that is zeros.
    [[nodiscard]] bool covers(std::uint64_t offset, std::uint64_t size) const noexcept override;
    [[nodiscard]] Extent extent_at(std::uint64_t offset, std::uint64_t limit) const noexcept override;
    [[nodiscard]] ReadResult read(std::uint64_t offset, std::span<std::byte> out) noexcept override;
    // Null for a range that is no single run of one plain build.
    [[nodiscard]] const std::byte* mapped(std::uint64_t offset, std::uint64_t size) const noexcept override;
    // Never for a compressed build.
    [[nodiscard]] bool ready(std::uint64_t offset, std::uint64_t size) noexcept override;
    [[nodiscard]] bool read_now(std::uint64_t offset, std::span<std::byte> out) noexcept override;
    [[nodiscard]] ReadResult prepare(std::uint64_t offset, std::uint64_t size) noexcept override;
    [[nodiscard]] ReadResult still_whole() const noexcept override;
    [[nodiscard]] ReadResult whole_at(std::uint64_t offset) const noexcept override;
    [[nodiscard]] ReadResult whole_lately(std::uint64_t offset, std::uint64_t now_ns) const noexcept override;
    [[nodiscard]] bool is_closed() const noexcept override;
    [[nodiscard]] std::vector<Extent> extents() const override;
    [[nodiscard]] SourceTier tier(std::uint64_t offset) const noexcept override;
    [[nodiscard]] std::string description() const override;
    [[nodiscard]] std::string description_at(std::uint64_t offset) const override;
    [[nodiscard]] std::string remedy(const ReadResult& result) const override;
    void close() noexcept override;

    struct Resolved {
        Uuid build;  // nil: zeros
        std::uint64_t storage;
        std::uint64_t remaining;
    };
    // Where the byte at `offset` lies, and how many follow it there. Throws Error(SourceRangeError) behind the end.
    [[nodiscard]] Resolved resolve(std::uint64_t offset) const;
    [[nodiscard]] std::size_t layer_count() const noexcept { return layers_.size(); }
    [[nodiscard]] const ChunkCache& frames() const noexcept { return cache_; }

private:
    struct Layer {
        Uuid uuid;
        std::shared_ptr<PageSource> source;
        FrameCodec codec = FrameCodec::none;
        std::vector<LayeredFrame> frames;
        std::uint64_t first_frame = 0;  // its number among those of all layers
    };
    struct Part {
        Layer* layer;  // null: zeros
        std::uint64_t storage;
        std::uint64_t size;
    };

    [[nodiscard]] std::vector<std::uint32_t> open_layers(const LayeredHeader& header, const Builds& builds);
    [[nodiscard]] ReadResult check(std::uint64_t offset, std::uint64_t size) const noexcept;
    [[nodiscard]] Part part_at(std::uint64_t offset, std::uint64_t limit) const noexcept;
    // `result` of a part that begins at `offset`, with failed_at as an offset of the memory.
    [[nodiscard]] static ReadResult located(ReadResult result, const Part& part, std::uint64_t offset) noexcept;
    // Where the bytes at an offset of the build's memory are read from its source.
    [[nodiscard]] static std::uint64_t source_offset(const Layer& layer, std::uint64_t storage) noexcept;
    [[nodiscard]] static std::size_t frame_at(const Layer& layer, std::uint64_t storage) noexcept;
    [[nodiscard]] std::uint64_t count_frames() const noexcept;
    [[nodiscard]] std::uint64_t largest_frame() const noexcept;
    [[nodiscard]] ReadResult load(std::uint64_t number, std::span<std::byte> room) noexcept override;
    [[nodiscard]] ReadResult read_part(const Part& part, std::span<std::byte> out) noexcept;

    Uuid build_;
    std::vector<std::unique_ptr<Layer>> layers_;
    LayeredMap map_;
    ChunkCache cache_;
    std::atomic<bool> closed_{false};
};

}  // namespace vmthaw
