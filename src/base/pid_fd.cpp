#include "base/pid_fd.hpp"

#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <string>

namespace vmthaw {
namespace {
// Numbers are the same on every architecture (asm-generic); old C libraries do not name them.
constexpr long kSysPidfdSendSignal = 424;
constexpr long kSysPidfdOpen = 434;
}  // namespace

PidFd PidFd::open(pid_t pid) {
    const long fd = check_errno_long(::syscall(kSysPidfdOpen, pid, 0), "pidfd_open");
    return PidFd(UniqueFd(static_cast<int>(fd)), pid);
}

PidFd PidFd::adopt(UniqueFd fd) {
    std::ifstream info("/proc/self/fdinfo/" + std::to_string(fd.get()));
    std::string line;
    while (std::getline(info, line)) {
        if (line.starts_with("Pid:")) {
            return PidFd(std::move(fd), static_cast<pid_t>(std::strtol(line.c_str() + 4, nullptr, 10)));
        }
    }
    throw SystemError(EBADF, "adopting a pidfd", "the descriptor is not a pidfd");
}

bool PidFd::is_another() const noexcept { return static_cast<bool>(fd_) && pid_ != ::getpid(); }

bool PidFd::has_exited() const noexcept {
    pollfd poll_fd{fd_.get(), POLLIN, 0};
    const int saved = errno;
    const bool exited = ::poll(&poll_fd, 1, 0) > 0;
    errno = saved;
    return exited;
}

int PidFd::send_signal(int signal) const noexcept {
    const int saved = errno;
    const long result = ::syscall(kSysPidfdSendSignal, fd_.get(), signal, nullptr, 0);
    const int error_number = result < 0 ? errno : 0;
    errno = saved;
    return error_number;
}

}  // namespace vmthaw
