#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <string>

#include "base/unique_fd.hpp"
#include "fuse_protocol/fuse_attributes.hpp"

// System calls that PassthroughFs makes and older C libraries lack, one wrapper each: 0 or a positive errno.
namespace vmthaw {

// openat2(2) of one name in `directory`, never through a symlink, a magic link or out of it.
[[nodiscard]] int host_open_beneath(int directory, const char* name, int flags, mode_t mode, UniqueFd& fd) noexcept;
// Another open file of what `fd` (O_PATH allowed) stands for, by /proc/self/fd.
[[nodiscard]] int host_reopen(int fd, int flags, UniqueFd& reopened) noexcept;
// statx(2); `name` "" means `fd` itself. struct fuse_statx has statx's layout, with its mount id in spare2[0]. `mask`
// may be 0: all that struct fuse_attr carries, and the mount id.
[[nodiscard]] int host_statx(int fd, const char* name, std::uint32_t flags, std::uint32_t mask,
                             FuseStatx& found) noexcept;
[[nodiscard]] int host_rename(int directory, const char* name, int new_directory, const char* new_name,
                              std::uint32_t flags) noexcept;
[[nodiscard]] int host_copy_file_range(int from, std::uint64_t offset_in, int to, std::uint64_t offset_out,
                                       std::uint64_t length_bytes, std::uint64_t& copied_bytes) noexcept;

// What a file system calls an inode, generation included: equal for the same file only, even where its number is used
// again. Opening by it wants CAP_DAC_READ_SEARCH.
using HostFileHandle = std::string;
[[nodiscard]] int host_handle_of(int fd, HostFileHandle& handle) noexcept;
[[nodiscard]] int host_open_handle(int mount, const HostFileHandle& handle, int flags, UniqueFd& fd) noexcept;

// "/proc/self/fd/N", for calls that take no descriptor of O_PATH.
class HostFdPath {
public:
    explicit HostFdPath(int fd) noexcept;
    [[nodiscard]] const char* c_str() const noexcept { return text_.data(); }

private:
    std::array<char, 32> text_{};
};

[[nodiscard]] FuseAttr attributes_of(const FuseStatx& found) noexcept;
[[nodiscard]] inline std::uint64_t mount_id_of(const FuseStatx& found) noexcept { return found.spare2[0]; }

}  // namespace vmthaw
