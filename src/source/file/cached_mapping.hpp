#pragma once

#include <cstddef>
#include <cstdint>

#include "base/mapping.hpp"
#include "source/file/backing_file.hpp"
#include "source/file/data_ranges.hpp"

namespace vmthaw {

// A read-only shared mapping of a file that only the kernel reads (UFFDIO_COPY, pread): a load by user space could die
// of SIGBUS when the file shrinks. Knows which 256 KiB groups the page cache holds, as a hint: a page may be evicted
// afterwards, which costs time and nothing else. Borrows file and ranges. Thread-safe; only the constructor throws.
class CachedMapping {
public:
    static constexpr std::uint64_t kGroupBytes = 256 * 1024;

    // Throws Error(SourceOpenError) when the file cannot be mapped.
    CachedMapping(const BackingFile& file, const DataRanges& ranges);

    [[nodiscard]] const std::byte* at(std::uint64_t position) const noexcept { return mapping_.data() + position; }
    // Whether every data page of the range is in the page cache: a bit test a group once a group was seen complete.
    [[nodiscard]] bool is_warm(std::uint64_t position, std::uint64_t size) noexcept;
    // Whether copying the page at `position` from here would cost more than reading it: its group is not in the page
    // tables, few of its pages were asked for so far, and nobody came from the group before it.
    [[nodiscard]] bool is_dear(std::uint64_t position) noexcept;
    // Brings the range's data into the page cache and the page tables, and waits for it. One page after the other where
    // the disk was not asked before (BackingFile::will_need).
    [[nodiscard]] ReadResult populate(std::uint64_t position, std::uint64_t size) noexcept;

private:
    [[nodiscard]] bool probe_group(std::uint64_t group, std::uint64_t begin, std::uint64_t end) noexcept;
    [[nodiscard]] bool probe_pages(std::uint64_t begin, std::uint64_t end) const noexcept;
    [[nodiscard]] ReadResult populate_by_reading(std::uint64_t position, std::uint64_t size) const noexcept;
    [[nodiscard]] std::uint64_t* word_of(std::uint64_t group) const noexcept;

    const BackingFile& file_;
    const DataRanges& ranges_;
    Mapping mapping_;
    // NORESERVE memory, so that a sparse terabyte costs nothing.
    Mapping warm_;   // one bit a group
    Mapping reads_;  // one byte a group: pages that were read instead
};

}  // namespace vmthaw
