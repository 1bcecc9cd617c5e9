#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>

#include "base/unique_fd.hpp"

namespace vmthaw {

// The bytes of one file in memory. Pages that were written lie in a map, so that holes cost nothing; once somebody asks
// for a descriptor, everything moves into a memfd for good. Locks nothing: the file system does. Answers are 0 or a
// positive errno.
class MemoryData {
public:
    static constexpr std::size_t kPage_bytes = 4096;

    [[nodiscard]] std::uint64_t size() const noexcept { return size_bytes_; }
    // What it takes of the file system's capacity, a memfd's as of the last change through here.
    [[nodiscard]] std::uint64_t used_bytes() const noexcept { return used_bytes_; }

    // At most to the end of the file; gives back how many bytes.
    [[nodiscard]] int read(std::uint64_t offset, std::span<std::byte> out, std::size_t& read_bytes) const noexcept;
    // Fails with ENOSPC before it takes more than `free_bytes`; nothing is written then.
    [[nodiscard]] int write(std::uint64_t offset, std::span<const std::byte> data, std::uint64_t free_bytes) noexcept;
    [[nodiscard]] int resize(std::uint64_t size_bytes) noexcept;
    // Zeroed pages for the range; the size stays.
    [[nodiscard]] int allocate(std::uint64_t offset, std::uint64_t length, std::uint64_t free_bytes) noexcept;
    [[nodiscard]] int punch(std::uint64_t offset, std::uint64_t length) noexcept;
    // SEEK_DATA and SEEK_HOLE, in pages. ENXIO from the end on.
    [[nodiscard]] int seek(std::uint64_t offset, bool for_hole, std::uint64_t& found) const noexcept;

    // The descriptor of the memfd, made now if there was none yet.
    [[nodiscard]] int descriptor(int& fd) noexcept;

private:
    using Page = std::array<std::byte, kPage_bytes>;

    [[nodiscard]] std::uint64_t missing_pages(std::uint64_t offset, std::uint64_t length) const noexcept;
    [[nodiscard]] int write_pages(std::uint64_t offset, std::span<const std::byte> data) noexcept;
    [[nodiscard]] int add_pages(std::uint64_t offset, std::uint64_t length) noexcept;
    void zero_pages(std::uint64_t offset, std::uint64_t length) noexcept;
    [[nodiscard]] int changed_file(int error) noexcept;

    std::map<std::uint64_t, std::unique_ptr<Page>> pages_;
    UniqueFd file_;
    std::uint64_t size_bytes_ = 0;
    std::uint64_t used_bytes_ = 0;
};

}  // namespace vmthaw
