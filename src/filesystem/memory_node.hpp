#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <cstdint>
#include <ctime>
#include <map>
#include <string>
#include <string_view>

#include "filesystem/memory_data.hpp"
#include "fuse_protocol/fuse_attributes.hpp"

namespace vmthaw {

// The entries of one directory, by name and by the cookie that readdir goes on from: it stays while the name does, so
// that what is added or removed meanwhile neither repeats nor hides another. Locks nothing.
class MemoryDirectory {
public:
    struct Entry {
        std::string name;
        std::uint64_t node = 0;
    };
    // "." and ".." are the file system's.
    static constexpr std::uint64_t kFirstCookie = 3;

    // 0: there is none.
    [[nodiscard]] std::uint64_t find(std::string_view name) const noexcept;
    // Throws std::bad_alloc and has changed nothing then. The name is new.
    void add(std::string_view name, std::uint64_t node);
    // The name is there; keeps its cookie.
    void replace(std::string_view name, std::uint64_t node) noexcept;
    void remove(std::string_view name) noexcept;

    [[nodiscard]] const std::map<std::uint64_t, Entry>& by_cookie() const noexcept { return by_cookie_; }
    [[nodiscard]] bool empty() const noexcept { return by_cookie_.empty(); }

private:
    std::map<std::uint64_t, Entry> by_cookie_;
    std::map<std::string, std::uint64_t, std::less<>> cookies_;
    std::uint64_t next_cookie_ = kFirstCookie;
};

// One file of any kind. It lives while a name, a look-up, a handle or a lease holds it. Locks nothing.
struct MemoryNode {
    std::uint64_t id = 0;
    std::uint32_t mode = 0;
    std::uint32_t uid = 0;
    std::uint32_t gid = 0;
    std::uint32_t rdev = 0;
    std::uint32_t nlink = 0;
    timespec atime{};
    timespec mtime{};
    timespec ctime{};
    timespec btime{};

    std::uint64_t lookups = 0;
    std::uint64_t holders = 0;  // handles and leases

    std::uint64_t parent = 0;  // a directory's
    MemoryDirectory entries;
    std::string target;  // a symbolic link's
    MemoryData data;     // a regular file's
    std::map<std::string, std::string, std::less<>> xattrs;

    [[nodiscard]] bool is_directory() const noexcept { return S_ISDIR(mode); }
    [[nodiscard]] bool is_regular() const noexcept { return S_ISREG(mode); }
    [[nodiscard]] FuseAttr attributes() const noexcept;
    // What writing, truncating and chown do to a program's set-id bits: write(2), chown(2).
    void drop_set_id_bits() noexcept;
    void touch_data(const timespec& now) noexcept { mtime = ctime = now; }
};

}  // namespace vmthaw
