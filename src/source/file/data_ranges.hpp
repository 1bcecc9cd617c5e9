#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "source/page_source.hpp"

namespace vmthaw {

// Which parts of a file hold data, as whole 4 KiB pages; the rest are holes. A plain, immutable value: sorted ranges
// that neither touch nor overlap. Positions are bytes into the file. Lookups are O(log ranges) and never allocate.
class DataRanges {
public:
    static constexpr std::uint64_t kPageBytes = 4096;
    struct Range {
        std::uint64_t begin;
        std::uint64_t end;
        bool operator==(const Range&) const noexcept = default;
    };

    // Rounds `ranges` (sorted by begin) outwards to pages, cuts them at the page that holds the last byte and joins
    // those that touch.
    DataRanges(const std::vector<Range>& ranges, std::uint64_t file_size);
    // Asks the file system (SEEK_DATA, SEEK_HOLE); a file system that does not know holes makes it all data.
    // Throws SystemError.
    [[nodiscard]] static DataRanges scan(int fd, std::uint64_t file_size);

    // The kind at `position` and how far it goes, at most `limit` (0 counts as 1). Holes go on past the end.
    [[nodiscard]] Extent at(std::uint64_t position, std::uint64_t limit) const noexcept;
    // All of [0, file_size) in order, kinds alternating; the last extent ends with the file.
    [[nodiscard]] std::vector<Extent> extents() const;
    [[nodiscard]] const std::vector<Range>& ranges() const noexcept { return ranges_; }

private:
    std::vector<Range> ranges_;
    std::uint64_t file_size_;
};

}  // namespace vmthaw
