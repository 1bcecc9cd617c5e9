#include "filesystem/memfd_calls.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace vmthaw {
namespace {

constexpr unsigned kMemfdCloseOnExec = 1;
constexpr std::uint64_t kMemfdPage_bytes = 4096;

}  // namespace

int memfd_make(UniqueFd& fd) noexcept {
    const long made = ::syscall(__NR_memfd_create, "vmthaw-memory-file", kMemfdCloseOnExec);
    if (made < 0) {
        return errno;
    }
    fd.reset(static_cast<int>(made));
    return 0;
}

int memfd_resize(int fd, std::uint64_t size_bytes) noexcept {
    int result = 0;
    do {
        result = ::ftruncate(fd, static_cast<off_t>(size_bytes));
    } while (result < 0 && errno == EINTR);
    return result < 0 ? errno : 0;
}

int memfd_read(int fd, std::span<std::byte> out, std::uint64_t offset) noexcept {
    while (!out.empty()) {
        const ssize_t count = ::pread(fd, out.data(), out.size(), static_cast<off_t>(offset));
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count < 0) {
            return errno;
        }
        if (count == 0) {
            std::memset(out.data(), 0, out.size());
            return 0;
        }
        out = out.subspan(static_cast<std::size_t>(count));
        offset += static_cast<std::uint64_t>(count);
    }
    return 0;
}

int memfd_write(int fd, std::span<const std::byte> data, std::uint64_t offset) noexcept {
    while (!data.empty()) {
        const ssize_t count = ::pwrite(fd, data.data(), data.size(), static_cast<off_t>(offset));
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count <= 0) {
            return count < 0 ? errno : ENOSPC;
        }
        data = data.subspan(static_cast<std::size_t>(count));
        offset += static_cast<std::uint64_t>(count);
    }
    return 0;
}

int memfd_allocate(int fd, int mode, std::uint64_t offset, std::uint64_t length) noexcept {
    int result = 0;
    do {
        result = ::fallocate(fd, mode, static_cast<off_t>(offset), static_cast<off_t>(length));
    } while (result < 0 && errno == EINTR);
    return result < 0 ? errno : 0;
}

int memfd_seek(int fd, std::uint64_t offset, int whence, std::uint64_t& found) noexcept {
    const off_t at = ::lseek(fd, static_cast<off_t>(offset), whence);
    if (at < 0) {
        return errno;
    }
    found = static_cast<std::uint64_t>(at);
    return 0;
}

std::uint64_t memfd_missing_pages(int fd, std::uint64_t first, std::uint64_t end, std::uint64_t size_bytes) noexcept {
    // Behind the file's end, what fallocate put there cannot be seen, and counts as missing.
    const std::uint64_t stop = std::min(end * kMemfdPage_bytes, size_bytes);
    std::uint64_t present = 0;
    for (std::uint64_t at = first * kMemfdPage_bytes; at < stop;) {
        std::uint64_t data = 0;
        std::uint64_t hole = 0;
        if (memfd_seek(fd, at, SEEK_DATA, data) != 0 || data >= stop || memfd_seek(fd, data, SEEK_HOLE, hole) != 0) {
            break;
        }
        hole = std::min(hole, stop);
        present += (hole + kMemfdPage_bytes - 1) / kMemfdPage_bytes - data / kMemfdPage_bytes;
        at = hole;
    }
    const std::uint64_t asked = end - first;
    return asked - std::min(asked, present);
}

std::uint64_t memfd_used_bytes(int fd) noexcept {
    struct stat status{};
    return ::fstat(fd, &status) == 0 ? static_cast<std::uint64_t>(status.st_blocks) * 512 : 0;
}

}  // namespace vmthaw
