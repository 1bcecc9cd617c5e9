#include "filesystem/host_calls.hpp"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>

#include "kernel/fuse.hpp"

namespace vmthaw {
namespace {

// Numbers that are the same on every architecture, for headers that are older than the calls.
constexpr long kSysOpenat2 = 437;
#ifdef SYS_statx
constexpr long kSysStatx = SYS_statx;
#elif defined(__x86_64__)
constexpr long kSysStatx = 332;
#else
constexpr long kSysStatx = 291;
#endif
#ifdef SYS_renameat2
constexpr long kSysRenameat2 = SYS_renameat2;
#elif defined(__x86_64__)
constexpr long kSysRenameat2 = 316;
#else
constexpr long kSysRenameat2 = 276;
#endif
#ifdef SYS_copy_file_range
constexpr long kSysCopyFileRange = SYS_copy_file_range;
#elif defined(__x86_64__)
constexpr long kSysCopyFileRange = 326;
#else
constexpr long kSysCopyFileRange = 285;
#endif

// struct open_how and its flags of <linux/openat2.h>.
struct OpenHow {
    std::uint64_t flags = 0;
    std::uint64_t mode = 0;
    std::uint64_t resolve = 0;
};
constexpr std::uint64_t kResolveNoMagiclinks = 0x02;
constexpr std::uint64_t kResolveNoSymlinks = 0x04;
constexpr std::uint64_t kResolveBeneath = 0x08;
constexpr std::uint64_t kModeBits = 07777;

constexpr std::uint32_t kStatxMountId = 0x1000;  // STATX_MNT_ID, Linux 5.8
constexpr std::size_t kMostHandleBytes = 128;    // MAX_HANDLE_SZ

int errno_of(long result) noexcept { return result < 0 ? errno : 0; }

// struct file_handle with its bytes.
struct RawHandle {
    std::uint32_t bytes = kMostHandleBytes;
    std::int32_t type = 0;
    std::array<char, kMostHandleBytes> data{};
};

}  // namespace

int host_open_beneath(int directory, const char* name, int flags, mode_t mode, UniqueFd& fd) noexcept {
    const bool creates = (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE;
    OpenHow how;
    how.flags = static_cast<std::uint64_t>(flags | O_NOFOLLOW | O_CLOEXEC);
    how.mode = creates ? mode & kModeBits : 0;
    // A trailing symlink is opened as itself (O_PATH | O_NOFOLLOW), which RESOLVE_NO_SYMLINKS would refuse.
    how.resolve = kResolveBeneath | kResolveNoMagiclinks | ((flags & O_PATH) != 0 ? 0 : kResolveNoSymlinks);
    long opened = -1;
    do {
        opened = ::syscall(kSysOpenat2, directory, name, &how, sizeof how);
    } while (opened < 0 && (errno == EINTR || errno == EAGAIN));  // EAGAIN: somebody renamed meanwhile
    if (opened < 0) {
        return errno;
    }
    fd.reset(static_cast<int>(opened));
    return 0;
}

HostFdPath::HostFdPath(int fd) noexcept { std::snprintf(text_.data(), text_.size(), "/proc/self/fd/%d", fd); }

int host_reopen(int fd, int flags, UniqueFd& reopened) noexcept {
    const int opened = ::open(HostFdPath(fd).c_str(), flags | O_CLOEXEC);
    if (opened < 0) {
        return errno;
    }
    reopened.reset(opened);
    return 0;
}

int host_statx(int fd, const char* name, std::uint32_t flags, std::uint32_t mask, FuseStatx& found) noexcept {
    static_assert(sizeof found == 256);
    const std::uint32_t wanted = mask != 0 ? mask : kStatxBasicStats | kStatxMountId;
    const auto how = flags | AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT;
    return errno_of(::syscall(kSysStatx, fd, name, how, wanted, &found));
}

int host_rename(int directory, const char* name, int new_directory, const char* new_name,
                std::uint32_t flags) noexcept {
    return errno_of(::syscall(kSysRenameat2, directory, name, new_directory, new_name, flags));
}

int host_copy_file_range(int from, std::uint64_t offset_in, int to, std::uint64_t offset_out,
                         std::uint64_t length_bytes, std::uint64_t& copied_bytes) noexcept {
    auto in = static_cast<std::int64_t>(offset_in);
    auto out = static_cast<std::int64_t>(offset_out);
    const long copied = ::syscall(kSysCopyFileRange, from, &in, to, &out, length_bytes, 0);
    copied_bytes = copied > 0 ? static_cast<std::uint64_t>(copied) : 0;
    return errno_of(copied);
}

int host_handle_of(int fd, HostFileHandle& handle) noexcept {
    RawHandle raw;
    int mount = 0;
    if (::syscall(SYS_name_to_handle_at, fd, "", &raw, &mount, AT_EMPTY_PATH) != 0) {
        return errno;
    }
    handle.assign(reinterpret_cast<const char*>(&raw), offsetof(RawHandle, data) + raw.bytes);
    return 0;
}

int host_open_handle(int mount, const HostFileHandle& handle, int flags, UniqueFd& fd) noexcept {
    RawHandle raw;
    std::memcpy(&raw, handle.data(), handle.size());
    const long opened = ::syscall(SYS_open_by_handle_at, mount, &raw, flags | O_CLOEXEC);
    if (opened < 0) {
        return errno;
    }
    fd.reset(static_cast<int>(opened));
    return 0;
}

FuseAttr attributes_of(const FuseStatx& found) noexcept {
    constexpr std::uint32_t kMinorLowBits = 0xff;
    FuseAttr attr;
    attr.ino = found.ino;
    attr.size = found.size;
    attr.blocks = found.blocks;
    attr.atime = static_cast<std::uint64_t>(found.atime.tv_sec);
    attr.mtime = static_cast<std::uint64_t>(found.mtime.tv_sec);
    attr.ctime = static_cast<std::uint64_t>(found.ctime.tv_sec);
    attr.atimensec = found.atime.tv_nsec;
    attr.mtimensec = found.mtime.tv_nsec;
    attr.ctimensec = found.ctime.tv_nsec;
    attr.mode = found.mode;
    attr.nlink = found.nlink;
    attr.uid = found.uid;
    attr.gid = found.gid;
    // The kernel's own encoding of 12 and 20 bits in 32.
    attr.rdev =
        (found.rdev_minor & kMinorLowBits) | (found.rdev_major << 8U) | ((found.rdev_minor & ~kMinorLowBits) << 12U);
    attr.blksize = found.blksize;
    return attr;
}

}  // namespace vmthaw
