#include "userfaultfd_pin.hpp"

#include <linux/io_uring.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace vmthaw::testing_support {

PinnedMemory::PinnedMemory(void* address, std::size_t size) {
    io_uring_params parameters{};
    ring_ = UniqueFd(static_cast<int>(::syscall(SYS_io_uring_setup, 1, &parameters)));
    if (!ring_) {
        reason = std::string("no io_uring to pin memory with: ") + std::strerror(errno);
        return;
    }
    const iovec buffer{address, size};
    if (::syscall(SYS_io_uring_register, ring_.get(), IORING_REGISTER_BUFFERS, &buffer, 1) < 0) {
        reason = std::string("io_uring cannot pin memory: ") + std::strerror(errno);
    }
}

// Closing the ring alone would give the pages back at some later time.
PinnedMemory::~PinnedMemory() { ::syscall(SYS_io_uring_register, ring_.get(), IORING_UNREGISTER_BUFFERS, nullptr, 0); }

}  // namespace vmthaw::testing_support
