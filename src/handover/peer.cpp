#include "handover/peer.hpp"

#include <sys/socket.h>

#include <cerrno>

#include "base/error.hpp"

namespace vmthaw {
namespace {

constexpr int kSoPeerPidfd = 77;  // asm-generic/socket.h, Linux 6.5

// glibc hides struct ucred without _GNU_SOURCE.
struct Ucred {
    pid_t pid;
    uid_t uid;
    gid_t gid;
};

}  // namespace

PeerCredentials peer_credentials(int socket) {
    Ucred credentials{};
    socklen_t length = sizeof credentials;
    check_errno(::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &length), "getsockopt(SO_PEERCRED)");
    return {credentials.pid, credentials.uid, credentials.gid};
}

PidFd open_peer_pidfd(int socket) {
    const PeerCredentials peer = peer_credentials(socket);
    int fd = -1;
    socklen_t length = sizeof fd;
    if (::getsockopt(socket, SOL_SOCKET, kSoPeerPidfd, &fd, &length) == 0) {
        return PidFd(UniqueFd(fd), peer.pid);
    }
    const int error_number = errno;
    if (error_number == ENOPROTOOPT) {
        return PidFd::open(peer.pid);
    }
    // The kernel says EINVAL or ENODATA of a process that has been reaped.
    const bool gone = error_number == EINVAL || error_number == ENODATA || error_number == ESRCH;
    throw SystemError(gone ? ESRCH : error_number, "getsockopt(SO_PEERPIDFD)");
}

}  // namespace vmthaw
