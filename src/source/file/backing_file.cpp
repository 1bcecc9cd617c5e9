#include "source/file/backing_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "base/error.hpp"
#include "source/read_whole.hpp"

namespace vmthaw {
namespace {

#ifdef SYS_preadv2
constexpr long kSysPreadv2 = SYS_preadv2;
#elif defined(__x86_64__)
constexpr long kSysPreadv2 = 327;
#else
constexpr long kSysPreadv2 = 286;  // asm-generic
#endif
constexpr int kRwfNowait = 8;  // linux/fs.h, Linux 4.14
// One WILLNEED call reads no more than the device's own limit allows, which is seldom below this.
constexpr std::uint64_t kReadAheadBytes = 512 * 1024;

std::string open_remedy(int errno_value) {
    switch (errno_value) {
        case ENOENT:
            return "; check the path of the memory file";
        case EACCES:
        case EPERM:
            return "; this user needs read permission on the file and search permission on its directories";
        case EMFILE:
            return "; raise the limit of open files (ulimit -n)";
        default:
            return "";
    }
}

std::string refusal(mode_t mode) {
    if (S_ISDIR(mode)) {
        return "it is a directory: give the memory file inside it";
    }
    return "it is not a regular file: a device, pipe or socket has no size that could be checked";
}

}  // namespace

void throw_open_error(const std::string& path, int errno_value, const std::string& why) {
    throw Error("cannot open page source " + path + ": " + why, "SourceOpenError",
                {{"path", path}, {"errno", static_cast<std::int64_t>(errno_value)}});
}

BackingFile::BackingFile(const std::string& path) : path_(path) {
    if (path.empty() || path.find('\0') != std::string::npos) {
        throw_open_error(path, EINVAL, "the path is empty or holds a zero byte");
    }
    int fd = -1;
    do {
        // O_NONBLOCK: opening a pipe would wait for a writer; it means nothing on regular files.
        fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    } while (fd < 0 && errno == EINTR);
    if (fd < 0) {
        const int saved = errno;
        throw_open_error(path, saved, std::generic_category().message(saved) + open_remedy(saved));
    }
    fd_.reset(fd);
    struct stat status{};
    if (::fstat(fd, &status) != 0) {
        const int saved = errno;
        throw_open_error(path, saved, "fstat: " + std::generic_category().message(saved));
    }
    if (!S_ISREG(status.st_mode)) {
        throw_open_error(path, S_ISDIR(status.st_mode) ? EISDIR : EINVAL, refusal(status.st_mode));
    }
    if (status.st_size <= 0) {
        throw_open_error(path, EINVAL, "the file is empty: was the snapshot written to its end?");
    }
    size_ = static_cast<std::uint64_t>(status.st_size);
    device_ = static_cast<std::uint64_t>(status.st_dev);
    inode_ = static_cast<std::uint64_t>(status.st_ino);
    residency_is_visible_ =
        ::geteuid() == 0 || status.st_uid == ::geteuid() || ::faccessat(AT_FDCWD, path.c_str(), W_OK, AT_EACCESS) == 0;
    ::posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
}

ReadResult BackingFile::still_whole() const noexcept {
    // Half the price of fstat(2), once a fault; nobody uses the offset that this moves.
    const off_t now = ::lseek(fd_.get(), 0, SEEK_END);
    if (now < 0) {
        return {.status = ReadStatus::io_error, .errno_value = errno};
    }
    if (static_cast<std::uint64_t>(now) < size_) {
        return {.status = ReadStatus::short_read, .got_bytes = static_cast<std::uint64_t>(now)};
    }
    return {};
}

std::string BackingFile::remedy(const ReadResult& result) const {
    const ReadResult now = still_whole();
    if (now.status == ReadStatus::short_read) {
        return path_ + " was cut: it has " + std::to_string(now.got_bytes) + " of the " + std::to_string(size_) +
               " bytes that it had when it was opened; put the whole file in its place and open it again";
    }
    // EFAULT: the kernel could not read a mapping of the file, which has its size.
    if (result.status == ReadStatus::io_error && (result.errno_value == EIO || result.errno_value == EFAULT)) {
        return "its disk or file system failed: see the kernel's log, and take another copy of the file";
    }
    return {};
}

ReadResult BackingFile::read_at(std::uint64_t position, std::span<std::byte> out) const noexcept {
    return read_whole(fd_.get(), position, out);
}

void BackingFile::will_need(std::uint64_t position, std::uint64_t size) const noexcept {
    for (std::uint64_t done = 0; done < size; done += kReadAheadBytes) {
        ::posix_fadvise(fd_.get(), static_cast<off_t>(position + done),
                        static_cast<off_t>(std::min(kReadAheadBytes, size - done)), POSIX_FADV_WILLNEED);
    }
}

bool BackingFile::read_without_waiting(std::uint64_t position, std::span<std::byte> out) const noexcept {
    const iovec vector{out.data(), out.size()};
    return ::syscall(kSysPreadv2, fd_.get(), &vector, 1, static_cast<long>(position), 0, kRwfNowait) ==
           static_cast<long>(out.size());
}

}  // namespace vmthaw
