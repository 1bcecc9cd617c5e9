#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "source/file/data_ranges.hpp"
#include "source/file/file_source.hpp"
#include "source/page_source.hpp"

namespace vmthaw {

// A diff memory file as Firecracker writes it: sparse, as long as the memory; what is no hole was changed.
struct SparseDiff {
    std::string path;
    // Which 4 KiB pages were changed, a bit for each, where somebody wrote it down: a copied file may have other holes
    // than it was written with. Without it, the file's holes say so.
    std::optional<std::vector<std::uint64_t>> changed_pages;
};

// A memory and any number of diffs over it, the newest last: each page comes from the newest layer that has it. Zeros
// in a diff are zeros, holes the layer below. One look-up finds the layer, however many there are. Thread-safe; owns
// its layers together with others. The constructor throws Error(SourceOpenError), which names the file, or
// ArgumentError.
class SparseDiffSource final : public PageSource {
public:
    SparseDiffSource(std::shared_ptr<PageSource> base, const std::vector<SparseDiff>& diffs);

    [[nodiscard]] std::uint64_t size() const noexcept override { return size_; }
    [[nodiscard]] bool covers(std::uint64_t offset, std::uint64_t size) const noexcept override;
    [[nodiscard]] Extent extent_at(std::uint64_t offset, std::uint64_t limit) const noexcept override;
    [[nodiscard]] ReadResult read(std::uint64_t offset, std::span<std::byte> out) noexcept override;
    // Null for a range that lies in more than one layer.
    [[nodiscard]] const std::byte* mapped(std::uint64_t offset, std::uint64_t size) const noexcept override;
    [[nodiscard]] bool ready(std::uint64_t offset, std::uint64_t size) noexcept override;
    [[nodiscard]] bool read_now(std::uint64_t offset, std::span<std::byte> out) noexcept override;
    [[nodiscard]] ReadResult prepare(std::uint64_t offset, std::uint64_t size) noexcept override;
    [[nodiscard]] ReadResult still_whole() const noexcept override;
    [[nodiscard]] ReadResult whole_at(std::uint64_t offset) const noexcept override;
    [[nodiscard]] ReadResult whole_lately(std::uint64_t offset, std::uint64_t now_ns) const noexcept override;
    [[nodiscard]] bool is_closed() const noexcept override { return layers_.front()->is_closed(); }
    [[nodiscard]] std::vector<Extent> extents() const override;
    [[nodiscard]] SourceTier tier(std::uint64_t offset) const noexcept override;
    [[nodiscard]] std::string description() const override;
    [[nodiscard]] std::string description_at(std::uint64_t offset) const override;
    [[nodiscard]] std::string remedy(const ReadResult& result) const override;
    void close() noexcept override;

    // 0 is the base, then the diffs in their order. What lies beyond the memory is the base's.
    [[nodiscard]] std::size_t layer_at(std::uint64_t offset) const noexcept;
    [[nodiscard]] const std::vector<std::shared_ptr<PageSource>>& layers() const noexcept { return layers_; }
    // What the diff `layer` (1 is the oldest) has by itself, in order: data, zeros where its written-down pages are
    // holes, and unchanged. Throws ArgumentError when there is no such diff.
    [[nodiscard]] std::vector<Extent> diff_extents(std::size_t layer) const;

private:
    // [begin of this, begin of the next) comes from the layer.
    struct Segment {
        std::uint64_t begin;
        std::size_t layer;
    };
    struct Part {
        PageSource& layer;
        std::uint64_t size;
    };

    void lay_over(const DataRanges& ranges, std::size_t layer);
    // The layer at `offset`, and how much of `limit` bytes it has.
    [[nodiscard]] Part part_at(std::uint64_t offset, std::uint64_t limit) const noexcept;

    std::uint64_t size_;
    std::vector<std::shared_ptr<PageSource>> layers_;
    std::vector<std::optional<DataRanges>> written_down_;  // of each diff; none: its file's holes say so
    std::vector<Segment> segments_;
};

}  // namespace vmthaw
