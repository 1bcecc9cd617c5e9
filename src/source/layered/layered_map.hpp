#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "source/layered/layered_header.hpp"

namespace vmthaw {

// Where each byte of a layered memory lies: one look-up, whatever the number of layers. Neighbours are one run when
// their storage is contiguous, too. Immutable; look-ups neither allocate nor throw.
class LayeredMap {
public:
    static constexpr std::uint32_t kZeros = UINT32_MAX;
    struct Place {
        std::uint32_t layer;  // kZeros: nil
        std::uint64_t storage;
        std::uint64_t size;
    };
    // How look-ups are made: a table of all blocks needs one load, and 8 bytes for 4 KiB; a search of the runs, most
    // often among one or two, is faster where they fit into a cache. `best` chooses.
    enum class Kind : std::uint8_t { best, table, search };

    // Measured (benchmark source/layered-lookup): the table costs one load, but from a large array; up to so many runs
    // the search stays in the caches and takes a third of that. With 2^20 runs it takes 2.5 times as long.
    static constexpr std::size_t kFewRuns = std::size_t{1} << 16U;

    // `layers[i]` is the layer of `header.uuids[i]`, or kZeros. The header is checked.
    LayeredMap(const LayeredHeader& header, std::span<const std::uint32_t> layers, Kind kind = Kind::best);

    // At most `limit` bytes (0 counts as 1) from `offset` on, which must be below the size. Never ends in the middle of
    // a run but at the limit or the memory's end.
    [[nodiscard]] Place at(std::uint64_t offset, std::uint64_t limit) const noexcept;
    [[nodiscard]] std::uint64_t size() const noexcept { return size_; }
    [[nodiscard]] bool has_table() const noexcept { return !table_.empty(); }

private:
    struct Run {
        std::uint64_t begin;
        std::uint64_t storage;
        std::uint32_t layer;
    };

    void fill_table();
    void fill_buckets();
    [[nodiscard]] Place search(std::uint64_t offset, std::uint64_t limit) const noexcept;

    std::uint64_t size_;
    std::vector<Run> runs_;
    // The run that each 2^bucket_shift_ bytes begin in, and the last run after them: a search goes from one to the
    // next.
    std::vector<std::uint32_t> buckets_;
    unsigned bucket_shift_ = 0;
    // A number for each 4 KiB: 0 is nil, else the layer and the block in it. The next block of a run is the next
    // number.
    std::vector<std::uint64_t> table_;
};

}  // namespace vmthaw
