#include "base/event_fd.hpp"

#include <sys/eventfd.h>
#include <unistd.h>

namespace vmthaw {

EventFd::EventFd() : fd_(check_errno(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd")) {}

void EventFd::signal() const noexcept {
    const std::uint64_t one = 1;
    const int saved = errno;
    // EAGAIN means the counter is full, and then the reader is already signalled.
    [[maybe_unused]] const ssize_t written = ::write(fd_.get(), &one, sizeof one);
    errno = saved;
}

std::uint64_t EventFd::drain() const noexcept {
    std::uint64_t count = 0;
    const int saved = errno;
    const ssize_t got = ::read(fd_.get(), &count, sizeof count);
    errno = saved;
    return got == static_cast<ssize_t>(sizeof count) ? count : 0;
}

}  // namespace vmthaw
