#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/unique_fd.hpp"

// The system calls of a file in a memfd: each answers 0 or a positive errno and goes on after EINTR and short counts.
namespace vmthaw {

[[nodiscard]] int memfd_make(UniqueFd& fd) noexcept;
[[nodiscard]] int memfd_resize(int fd, std::uint64_t size_bytes) noexcept;
// What lies behind the end reads as zeros.
[[nodiscard]] int memfd_read(int fd, std::span<std::byte> out, std::uint64_t offset) noexcept;
[[nodiscard]] int memfd_write(int fd, std::span<const std::byte> data, std::uint64_t offset) noexcept;
[[nodiscard]] int memfd_allocate(int fd, int mode, std::uint64_t offset, std::uint64_t length) noexcept;
[[nodiscard]] int memfd_seek(int fd, std::uint64_t offset, int whence, std::uint64_t& found) noexcept;
// Of the pages [first, end), how many take no memory yet.
[[nodiscard]] std::uint64_t memfd_missing_pages(int fd, std::uint64_t first, std::uint64_t end,
                                                std::uint64_t size_bytes) noexcept;
[[nodiscard]] std::uint64_t memfd_used_bytes(int fd) noexcept;

}  // namespace vmthaw
