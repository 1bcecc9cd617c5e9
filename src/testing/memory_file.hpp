#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "base/unique_fd.hpp"

namespace vmthaw::testing {

// Writes a deterministic memory file: of its 4 KiB pages the share `zero_share` is zeros (holes when `sparse`), the
// rest carry their own number and the seed in every word, so that a page in the wrong place is seen. A last partial
// page is written as far as it goes. Throws SystemError, ArgumentError. `path` is replaced.
void write_memory_file(const std::string& path, std::uint64_t size, double zero_share, std::uint64_t seed, bool sparse);

// A memory file read by pread(2) alone, independently of the code under test. Thread-safe.
class MemoryFileReader {
public:
    explicit MemoryFileReader(const std::string& path);  // throws SystemError

    [[nodiscard]] std::uint64_t size() const noexcept { return size_; }
    // Zeros beyond the end. Throws SystemError.
    void read(std::uint64_t offset, std::span<std::byte> out) const;

private:
    UniqueFd fd_;
    std::uint64_t size_ = 0;
};

}  // namespace vmthaw::testing
