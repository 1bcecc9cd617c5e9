#include "machine/freeze/thread_kick.hpp"

#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "machine/kick.hpp"

namespace vmthaw {

void ThreadKick::bind() noexcept {
    const std::lock_guard lock(mutex_);
    thread_ = static_cast<pid_t>(::syscall(SYS_gettid));
}

void ThreadKick::unbind() noexcept {
    const std::lock_guard lock(mutex_);
    thread_ = 0;
}

void ThreadKick::kick() noexcept {
    const int saved = errno;
    const std::lock_guard lock(mutex_);
    if (thread_ != 0) {
        ::syscall(SYS_tgkill, ::getpid(), thread_, kick_signal());
    }
    errno = saved;
}

}  // namespace vmthaw
