#pragma once

#include <cstdint>
#include <vector>

#include "source/page_source.hpp"

namespace vmthaw {

// What whoever opens a source says of its ranges, where the source itself cannot: data and zeros, in order, without
// gaps, with bounds at any byte. A 4 KiB page that is data in part is data: asking for all of it costs less than asking
// for its parts, and the zeros in it come with them. A plain, immutable value; look-ups are O(log extents) and never
// allocate.
class KnownExtents {
public:
    // They must cover [start, start + size), `start` a multiple of 4096; none at all: all is data. Throws
    // ArgumentError, which names the one that is wrong.
    KnownExtents(const std::vector<Extent>& extents, std::uint64_t start, std::uint64_t size);

    // The kind at `offset` and how far it goes, at most `limit` (0 counts as 1). Data outside: read() says out_of_range
    // there, where zeros would hide the mistake.
    [[nodiscard]] Extent at(std::uint64_t offset, std::uint64_t limit) const noexcept;
    // In whole pages but for the end; neighbours of one kind are joined.
    [[nodiscard]] const std::vector<Extent>& all() const noexcept { return extents_; }

private:
    std::uint64_t start_;
    std::uint64_t size_;
    std::vector<Extent> extents_;
};

}  // namespace vmthaw
