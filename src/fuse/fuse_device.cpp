#include "fuse/fuse_device.hpp"

#include <fcntl.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>

#include "base/error.hpp"

namespace vmthaw {
namespace {

// _IOR(229, 0, uint32_t) of <linux/fuse.h>, which the oldest headers lack.
constexpr unsigned long kFuseDevIocClone = _IOR(229, 0, std::uint32_t);

// Descriptors that a forked child closes; 0 is a free place. Fixed and without a lock, since the child of a process
// with threads may do nothing else. A server has a handful; beyond the room a descriptor is merely not closed.
constexpr std::size_t kMostDevices = 1024;
std::array<std::atomic<int>, kMostDevices> g_devices{};

void close_devices_in_child() {
    for (std::atomic<int>& device : g_devices) {
        if (const int fd = device.exchange(0); fd > 0) {
            ::close(fd);
        }
    }
}

[[maybe_unused]] const int g_closes_devices = ::pthread_atfork(nullptr, nullptr, &close_devices_in_child);

void remember_device(int fd) noexcept {
    for (std::atomic<int>& device : g_devices) {
        int free_place = 0;
        if (device.compare_exchange_strong(free_place, fd)) {
            return;
        }
    }
}

void forget_device(int fd) noexcept {
    for (std::atomic<int>& device : g_devices) {
        int expected = fd;
        if (device.compare_exchange_strong(expected, 0)) {
            return;
        }
    }
}

int open_device() {
    const int fd = ::open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        const int saved = errno;
        throw SystemError(saved, "open(/dev/fuse)",
                          saved == EACCES ? "give this user access to it (0666 is usual)"
                                          : "load the module (modprobe fuse), or give the container the device");
    }
    return fd;
}

}  // namespace

FuseDevice::FuseDevice(UniqueFd fd) noexcept : fd_(std::move(fd)) {
    if (fd_) {
        remember_device(fd_.get());
    }
}

FuseDevice FuseDevice::open() { return FuseDevice(UniqueFd(open_device())); }

FuseDevice::FuseDevice(FuseDevice&& other) noexcept : fd_(std::move(other.fd_)), guard_(other.guard_) {}

FuseDevice& FuseDevice::operator=(FuseDevice&& other) noexcept {
    if (this != &other) {
        close();
        fd_ = std::move(other.fd_);
        guard_ = other.guard_;
    }
    return *this;
}

FuseDevice::~FuseDevice() { close(); }

void FuseDevice::close() noexcept {
    if (guard_.inherited()) {
        [[maybe_unused]] const int closed_already = fd_.release();
        return;
    }
    if (fd_) {
        forget_device(fd_.get());
        fd_.reset();
    }
}

FuseDevice FuseDevice::clone() const {
    FuseDevice other = open();
    auto session = static_cast<std::uint32_t>(fd_.get());
    check_errno(::ioctl(other.fd(), kFuseDevIocClone, &session), "ioctl(FUSE_DEV_IOC_CLONE)");
    return other;
}

int FuseDevice::cut() const noexcept {
    if (guard_.inherited() || !fd_) {
        return 0;
    }
    const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
    return !null || ::dup3(null.get(), fd_.get(), O_CLOEXEC) < 0 ? errno : 0;
}

std::int64_t FuseDevice::read(std::span<std::byte> buffer) const noexcept {
    const ssize_t got = ::read(fd_.get(), buffer.data(), buffer.size());
    return got < 0 ? -static_cast<std::int64_t>(errno) : got;
}

int FuseDevice::write(std::span<const std::byte> reply) const noexcept {
    return ::write(fd_.get(), reply.data(), reply.size()) < 0 ? errno : 0;
}

}  // namespace vmthaw
