#include "userfaultfd/userfaultfd.hpp"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <string>

#include "base/error.hpp"

namespace vmthaw {
namespace {

// The kernel keeps "UFFDIO_API was called" as a feature bit of its own; it is not a feature.
constexpr std::uint64_t kInitializedBit = std::uint64_t{1} << 31U;

FillStatus status_of(int error_number) noexcept {
    switch (error_number) {
        case EEXIST:
            return FillStatus::present;
        case EAGAIN:
            return FillStatus::again;
        case ENOENT:
            return FillStatus::unmapped;
        case ESRCH:
            return FillStatus::gone;
        case ENOMEM:
            return FillStatus::no_memory;
        case EFAULT:
            return FillStatus::bad_source;
        case EINVAL:
            return FillStatus::invalid;
        default:
            return FillStatus::failed;
    }
}

FillOutcome refused(int error_number, std::uint64_t done_bytes) noexcept {
    return {status_of(error_number), error_number, done_bytes};
}

// Repeats one range call until the range is done or the kernel gives a reason. `call(done, progress)` issues the ioctl
// for what is left and sets `progress` to the signed field of the structure, zeroed before the call.
// The field means progress only together with EAGAIN and only above zero: elsewhere it holds -errno or was not written.
template <typename Call>
FillOutcome resume(std::uint64_t size, Call call) noexcept {
    std::uint64_t done = 0;
    for (;;) {
        std::int64_t progress = 0;
        if (call(done, progress) == 0) {
            return {FillStatus::done, 0, size};
        }
        const int error_number = errno;
        if (error_number == EINTR) {
            continue;
        }
        if (error_number != EAGAIN || progress <= 0) {
            return refused(error_number, done);
        }
        // Some was installed: the call for the rest tells why it stopped.
        done += static_cast<std::uint64_t>(progress);
        if (done >= size) {
            return {FillStatus::done, 0, size};
        }
    }
}

FillOutcome fill(int fd, unsigned long request, std::uint64_t address, std::uint64_t size,
                 std::uint64_t mode) noexcept {
    return resume(size, [=](std::uint64_t done, std::int64_t& progress) noexcept {
        UffdFill argument{{address + done, size - done}, mode, 0};
        const int result = ::ioctl(fd, request, &argument);
        progress = argument.done;
        return result;
    });
}

FillOutcome transfer(int fd, unsigned long request, std::uint64_t address, std::uint64_t source, std::uint64_t size,
                     std::uint64_t mode) noexcept {
    return resume(size, [=](std::uint64_t done, std::int64_t& progress) noexcept {
        UffdCopy argument{address + done, source + done, size - done, mode, 0};
        const int result = ::ioctl(fd, request, &argument);
        progress = argument.copy;
        return result;
    });
}

// fdinfo says "API:\taa:<features>:<ioctls>", all in hexadecimal.
Features read_features(int fd) {
    std::ifstream info("/proc/self/fdinfo/" + std::to_string(fd));
    std::string line;
    while (std::getline(info, line)) {
        if (!line.starts_with("API:")) {
            continue;
        }
        const std::size_t colon = line.find(':', 4);
        if (colon != std::string::npos) {
            return Features(std::strtoull(line.c_str() + colon + 1, nullptr, 16) & ~kInitializedBit);
        }
    }
    return Features{};
}

}  // namespace

Userfaultfd Userfaultfd::adopt(UniqueFd fd) {
    std::array<char, 64> link{};
    const std::string path = "/proc/self/fd/" + std::to_string(fd.get());
    const ssize_t length = ::readlink(path.c_str(), link.data(), link.size() - 1);
    if (length < 0) {
        const int saved = errno;
        throw SystemError(saved == ENOENT ? EBADF : saved, "adopting a userfaultfd (readlink " + path + ")",
                          "pass an open descriptor; /proc must be mounted");
    }
    if (std::string_view(link.data(), static_cast<std::size_t>(length)) != "anon_inode:[userfaultfd]") {
        throw SystemError(EINVAL, "adopting a userfaultfd",
                          "descriptor " + std::to_string(fd.get()) + " is " + link.data() + ", not a userfaultfd");
    }
    // Before UFFDIO_API every range call answers EINVAL; afterwards a wake of any valid range answers 0, even when the
    // process is gone, and at worst makes a thread fault again.
    UffdRange anywhere{std::uint64_t{1} << 24U, static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE))};
    if (::ioctl(fd.get(), kUffdioWake, &anywhere) < 0 && errno == EINVAL) {
        throw SystemError(EINVAL, "adopting a userfaultfd",
                          "its owner never called UFFDIO_API on it; a new descriptor comes from UserfaultfdFactory");
    }
    const Features features = read_features(fd.get());
    return {std::move(fd), features};
}

Userfaultfd Userfaultfd::try_clone() const { return {fd_.duplicate(), features_}; }

void Userfaultfd::set_nonblocking(bool nonblocking) const {
    const int flags = check_errno(::fcntl(fd_.get(), F_GETFL), "fcntl(F_GETFL) on a userfaultfd");
    const int wanted = nonblocking ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
    if (wanted != flags) {
        check_errno(::fcntl(fd_.get(), F_SETFL, wanted), "fcntl(F_SETFL) on a userfaultfd");
    }
}

std::uint64_t Userfaultfd::register_range(std::uint64_t address, std::uint64_t size, std::uint64_t modes) const {
    UffdRegister argument{{address, size}, modes, 0};
    if (::ioctl(fd_.get(), kUffdioRegister, &argument) < 0) {
        const int saved = errno;
        throw SystemError(saved, "UFFDIO_REGISTER of " + std::to_string(size) + " bytes", {}, address);
    }
    return argument.ioctls;
}

void Userfaultfd::unregister_range(std::uint64_t address, std::uint64_t size) const {
    UffdRange range{address, size};
    if (::ioctl(fd_.get(), kUffdioUnregister, &range) < 0) {
        const int saved = errno;
        throw SystemError(saved, "UFFDIO_UNREGISTER of " + std::to_string(size) + " bytes", {}, address);
    }
}

FillOutcome Userfaultfd::copy(std::uint64_t address, const void* source, std::uint64_t size,
                              std::uint64_t mode) const noexcept {
    // JUSTIFICATION: the kernel's interface carries pointers as 64-bit integers.
    return transfer(fd_.get(), kUffdioCopy, address, reinterpret_cast<std::uintptr_t>(source), size, mode);
}

FillOutcome Userfaultfd::zero(std::uint64_t address, std::uint64_t size, std::uint64_t mode) const noexcept {
    return fill(fd_.get(), kUffdioZeropage, address, size, mode);
}

FillOutcome Userfaultfd::continue_range(std::uint64_t address, std::uint64_t size, std::uint64_t mode) const noexcept {
    return fill(fd_.get(), kUffdioContinue, address, size, mode);
}

FillOutcome Userfaultfd::poison(std::uint64_t address, std::uint64_t size, std::uint64_t mode) const noexcept {
    return fill(fd_.get(), kUffdioPoison, address, size, mode);
}

FillOutcome Userfaultfd::move(std::uint64_t address, std::uint64_t source_address, std::uint64_t size,
                              std::uint64_t mode) const noexcept {
    return transfer(fd_.get(), kUffdioMove, address, source_address, size, mode);
}

FillOutcome Userfaultfd::write_protect(std::uint64_t address, std::uint64_t size, std::uint64_t mode) const noexcept {
    // WRITEPROTECT reports no progress: it is done whole or has to be repeated whole.
    return resume(size, [=, this](std::uint64_t /*done*/, std::int64_t& /*progress*/) noexcept {
        UffdWriteProtect argument{{address, size}, mode};
        return ::ioctl(fd_.get(), kUffdioWriteProtect, &argument);
    });
}

int Userfaultfd::wake(std::uint64_t address, std::uint64_t size) const noexcept {
    UffdRange range{address, size};
    return ::ioctl(fd_.get(), kUffdioWake, &range) < 0 ? errno : 0;
}

ReadOutcome Userfaultfd::read(std::span<UffdMessage> messages) const noexcept {
    const ssize_t got = ::read(fd_.get(), messages.data(), messages.size_bytes());
    if (got < 0) {
        return {0, errno};
    }
    return {static_cast<std::size_t>(got) / sizeof(UffdMessage), 0};
}

}  // namespace vmthaw
