#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/unique_fd.hpp"
#include "userfaultfd/userfaultfd.hpp"

namespace vmthaw::testing {

enum class MemoryKind : std::uint8_t { anonymous, shmem, hugetlb };

struct FakeRegionSpec {
    std::uint64_t size;
    std::uint64_t file_offset;
};

struct FakeRegion {
    std::uint64_t host_address;
    std::uint64_t size;
    std::uint64_t file_offset;
};

// Guest memory as a VMM maps it: each region private, anonymous, NORESERVE and 2 MiB-aligned (or shmem, or hugetlb),
// with a userfaultfd of its own (close-on-exec, non-blocking, kernel faults, EVENT_REMOVE and `extra_features`) that
// has every region registered MISSING. Pages are numbered through all regions, in units of page_size().
// Set-up and the range calls throw SystemError or ArgumentError. Which thread may touch what is FakeVmm's business.
class FakeVmmMemory {
public:
    FakeVmmMemory(const std::vector<FakeRegionSpec>& regions, MemoryKind kind, std::uint64_t page_size,
                  std::uint64_t extra_features);
    FakeVmmMemory(const FakeVmmMemory&) = delete;
    FakeVmmMemory& operator=(const FakeVmmMemory&) = delete;
    FakeVmmMemory(FakeVmmMemory&&) = delete;
    FakeVmmMemory& operator=(FakeVmmMemory&&) = delete;
    ~FakeVmmMemory();

    [[nodiscard]] const std::vector<FakeRegion>& regions() const noexcept { return regions_; }  // as handed over
    [[nodiscard]] std::uint64_t page_size() const noexcept { return page_size_; }
    [[nodiscard]] std::uint64_t pages() const noexcept { return addresses_.size(); }
    [[nodiscard]] int userfaultfd() const noexcept { return userfaultfd_ ? userfaultfd_->fd() : -1; }

    // Where a page is now; 0 once it is unmapped.
    [[nodiscard]] std::uint64_t address(std::uint64_t page) const noexcept { return addresses_[page]; }
    [[nodiscard]] std::uint64_t file_offset(std::uint64_t page) const noexcept;

    // Throws ArgumentError unless [first, first + count) is one mapped run; gives its address.
    std::uint64_t check_mapped(std::uint64_t first, std::uint64_t count) const;
    // [first, first + count) must be one mapped run. Each blocks until a handler has read the event.
    void remove(std::uint64_t first, std::uint64_t count) const;  // MADV_DONTNEED (shmem: MADV_REMOVE)
    void unmap(std::uint64_t first, std::uint64_t count);
    void remap(std::uint64_t first, std::uint64_t count);  // moves the pages to a fresh address

    // Pages that are present, by /proc/self/pagemap: never touches them. Throws SystemError.
    [[nodiscard]] std::uint64_t resident_pages() const;
    void close_userfaultfd() noexcept { userfaultfd_.reset(); }

private:
    struct Piece {
        std::uint64_t address;
        std::uint64_t size;
    };
    void map_region(const Userfaultfd& userfaultfd, const FakeRegionSpec& spec);

    MemoryKind kind_;
    std::uint64_t page_size_;
    std::vector<FakeRegion> regions_;
    std::vector<std::uint64_t> first_page_;  // of each region
    std::vector<std::uint64_t> addresses_;
    std::vector<Piece> pieces_;  // to unmap at the end: regions, and where pages were moved to
    std::optional<Userfaultfd> userfaultfd_;
};

}  // namespace vmthaw::testing
