#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/unique_fd.hpp"
#include "source/page_source.hpp"

namespace vmthaw {

// A regular file open for reading, with its size as it was at open: the calls a file-backed source makes, each wrapped
// once. Positions are bytes into the file. Thread-safe; only the constructor throws.
class BackingFile {
public:
    // Throws Error(SourceOpenError): missing, denied, empty, or no regular file. Kernel read-ahead is turned off.
    explicit BackingFile(const std::string& path);

    [[nodiscard]] int fd() const noexcept { return fd_.get(); }
    [[nodiscard]] const std::string& path() const noexcept { return path_; }
    [[nodiscard]] std::uint64_t size() const noexcept { return size_; }
    [[nodiscard]] std::uint64_t device() const noexcept { return device_; }
    [[nodiscard]] std::uint64_t inode() const noexcept { return inode_; }
    // mincore(2) tells the truth only to who owns the file or may write it; to others every page looks resident.
    [[nodiscard]] bool residency_is_visible() const noexcept { return residency_is_visible_; }

    // ok, short_read (got_bytes: the size now) when the file is smaller than at open, or io_error.
    [[nodiscard]] ReadResult still_whole() const noexcept;
    // What is wrong with the file now and how to mend it, as the end of a message about a read; "" when nothing is
    // known.
    [[nodiscard]] std::string remedy(const ReadResult& result) const;
    // pread(2) until `out` is full. short_read carries the bytes that came.
    [[nodiscard]] ReadResult read_at(std::uint64_t position, std::span<std::byte> out) const noexcept;
    // Starts reading the range into the page cache and returns (POSIX_FADV_WILLNEED).
    void will_need(std::uint64_t position, std::uint64_t size) const noexcept;
    // Fills `out` from the page cache (RWF_NOWAIT); false when some of it is not there or the kernel cannot tell.
    [[nodiscard]] bool read_without_waiting(std::uint64_t position, std::span<std::byte> out) const noexcept;

private:
    std::string path_;
    UniqueFd fd_;
    std::uint64_t size_ = 0;
    std::uint64_t device_ = 0;
    std::uint64_t inode_ = 0;
    bool residency_is_visible_ = false;
};

// Throws Error(SourceOpenError) with the path, the errno (0: none) and a sentence that says why.
[[noreturn]] void throw_open_error(const std::string& path, int errno_value, const std::string& why);

}  // namespace vmthaw
