#pragma once

#include <sys/types.h>

#include "base/unique_fd.hpp"

namespace vmthaw {

// A process, held by descriptor so that a reused pid can never be signalled by mistake.
class PidFd {
public:
    PidFd() noexcept = default;
    explicit PidFd(UniqueFd fd, pid_t pid) noexcept : fd_(std::move(fd)), pid_(pid) {}

    // pidfd_open(2), Linux 5.3. Throws SystemError (ESRCH: gone).
    [[nodiscard]] static PidFd open(pid_t pid);
    // Adopts a received pidfd and reads its pid from fdinfo (-1 when the process is gone). Throws SystemError.
    [[nodiscard]] static PidFd adopt(UniqueFd fd);

    [[nodiscard]] int fd() const noexcept { return fd_.get(); }
    [[nodiscard]] pid_t pid() const noexcept { return pid_; }
    [[nodiscard]] explicit operator bool() const noexcept { return static_cast<bool>(fd_); }
    // Held, and not this process: to kill ourselves is no way to end a VM.
    [[nodiscard]] bool is_another() const noexcept;
    [[nodiscard]] bool has_exited() const noexcept;
    // 0 or the errno of pidfd_send_signal(2).
    [[nodiscard]] int send_signal(int signal) const noexcept;

private:
    UniqueFd fd_;
    pid_t pid_ = -1;
};

}  // namespace vmthaw
