#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/fork_guard.hpp"
#include "base/unique_fd.hpp"

namespace vmthaw {

// A file that gets its name when it is complete: written beside it under another name, flushed to the disk (unless
// told not to), renamed.
// What was there before stays until then; an object that dies unfinished removes what it wrote. Its mode is 0600: guest
// memory. Throws SystemError. For one thread at a time.
class PartialFile {
public:
    enum class Flush : std::uint8_t { first, never };

    explicit PartialFile(const std::string& path);
    PartialFile(const PartialFile&) = delete;
    PartialFile& operator=(const PartialFile&) = delete;
    PartialFile(PartialFile&&) = delete;
    PartialFile& operator=(PartialFile&&) = delete;
    ~PartialFile();

    void append(std::span<const std::byte> bytes);
    [[nodiscard]] std::uint64_t size() const noexcept { return size_; }
    // Without flushing, a crash of the machine may leave a file of that name with other bytes.
    void finish(Flush flush = Flush::first);

private:
    std::string path_;
    std::string partial_path_;
    UniqueFd fd_;
    std::uint64_t size_ = 0;
    bool finished_ = false;
    ForkGuard fork_guard_;
};

}  // namespace vmthaw
