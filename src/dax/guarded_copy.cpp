#include "dax/guarded_copy.hpp"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/unique_fd.hpp"

namespace vmthaw {
namespace {

constexpr std::size_t kPipeBytes = 4096;  // that every pipe takes without a reader

bool is_refused(int error) noexcept { return error == ENOSYS || error == EPERM; }

template <typename Copy>
int copy_by_kernel(Copy copy, std::byte* theirs, std::byte* mine, std::size_t size) noexcept {
    const pid_t self = ::getpid();
    while (size > 0) {
        const iovec local{mine, size};
        const iovec remote{theirs, size};
        const ssize_t done = copy(self, &local, 1, &remote, 1, 0);
        if (done <= 0) {
            return done < 0 ? errno : EFAULT;
        }
        const auto bytes = static_cast<std::size_t>(done);
        mine += bytes;
        theirs += bytes;
        size -= bytes;
    }
    return 0;
}

int copy_by_pipe(const std::byte* from, std::byte* to, std::size_t size) noexcept {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
        return errno;
    }
    const UniqueFd reading(ends[0]);
    const UniqueFd writing(ends[1]);
    while (size > 0) {
        const ssize_t written = ::write(writing.get(), from, std::min(size, kPipeBytes));
        if (written <= 0) {
            return written < 0 ? errno : EFAULT;
        }
        for (auto left = static_cast<std::size_t>(written); left > 0;) {
            const ssize_t taken = ::read(reading.get(), to, left);
            if (taken <= 0) {
                return taken < 0 ? errno : EFAULT;
            }
            const auto bytes = static_cast<std::size_t>(taken);
            from += bytes;
            to += bytes;
            size -= bytes;
            left -= bytes;
        }
    }
    return 0;
}

}  // namespace

int guarded_read_by_pipe(std::byte* from, std::span<std::byte> out) noexcept {
    return copy_by_pipe(from, out.data(), out.size());
}

int guarded_write_by_pipe(std::byte* to, std::span<const std::byte> bytes) noexcept {
    return copy_by_pipe(bytes.data(), to, bytes.size());
}

int guarded_read(std::byte* from, std::span<std::byte> out) noexcept {
    const int error = copy_by_kernel(::process_vm_readv, from, out.data(), out.size());
    return is_refused(error) ? guarded_read_by_pipe(from, out) : error;
}

int guarded_write(std::byte* to, std::span<const std::byte> bytes) noexcept {
    // JUSTIFICATION: iovec has no const; process_vm_writev only reads its local side.
    auto* const mine = const_cast<std::byte*>(bytes.data());
    const int error = copy_by_kernel(::process_vm_writev, to, mine, bytes.size());
    return is_refused(error) ? guarded_write_by_pipe(to, bytes) : error;
}

}  // namespace vmthaw
