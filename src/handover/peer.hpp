#pragma once

#include <sys/types.h>

#include "base/pid_fd.hpp"

namespace vmthaw {

// Who connected a UNIX socket: as of connect(2), never changing afterwards.
struct PeerCredentials {
    pid_t pid = -1;
    uid_t uid = static_cast<uid_t>(-1);
    gid_t gid = static_cast<gid_t>(-1);
};

// SO_PEERCRED of a connected UNIX socket. Throws SystemError.
[[nodiscard]] PeerCredentials peer_credentials(int socket);

// The peer as a pidfd: SO_PEERPIDFD (Linux 6.5), or pidfd_open on its pid, which can name another process if the
// peer has died and its pid was given away since connect; so call it right after accept. Throws SystemError
// (ESRCH: the peer has exited; ENOSYS: the kernel has no pidfds).
[[nodiscard]] PidFd open_peer_pidfd(int socket);

}  // namespace vmthaw
