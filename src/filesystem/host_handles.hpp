#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/unique_fd.hpp"

namespace vmthaw {

// One entry of getdents64(2); the name ends with a NUL and lives as long as the reader's buffer.
struct HostDirent {
    std::string_view name;
    std::uint64_t ino = 0;
    std::uint64_t next_offset = 0;
    std::uint32_t type = 0;
};

// Reads a directory's entries from any of the host's offsets on. One thread at a time.
class HostDirectoryReader {
public:
    // 0 with an entry, 0 without one at the end (`name` empty), or an errno.
    [[nodiscard]] int next(int fd, std::uint64_t offset, HostDirent& entry) noexcept;

private:
    std::vector<std::byte> buffer_;
    std::size_t filled_ = 0;
    std::size_t position_ = 0;
    std::uint64_t offset_ = 0;  // of what lies at position_
};

// An open file or directory of the host, kept by whoever uses it. `fd` may be read on by a transport after the release.
struct HostHandle {
    std::shared_ptr<const UniqueFd> fd;
    std::uint64_t node = 0;
    bool is_directory = false;
    std::mutex mutex;  // of `entries`
    HostDirectoryReader entries;

    [[nodiscard]] int get() const noexcept { return fd->get(); }
};

// Open files by handle. Handles are never given twice. Any thread.
class HostHandles {
public:
    // 0 or ENOMEM.
    [[nodiscard]] int add(UniqueFd fd, std::uint64_t node, bool is_directory, std::uint64_t& handle) noexcept;
    // Null for a handle that was never given, or given back.
    [[nodiscard]] std::shared_ptr<HostHandle> find(std::uint64_t handle) const noexcept;
    std::shared_ptr<HostHandle> take(std::uint64_t handle) noexcept;
    [[nodiscard]] std::vector<std::shared_ptr<HostHandle>> take_all();
    [[nodiscard]] std::size_t count() const noexcept;

private:
    mutable std::mutex mutex_;
    std::uint64_t next_ = 1;
    std::unordered_map<std::uint64_t, std::shared_ptr<HostHandle>> files_;
};

}  // namespace vmthaw
