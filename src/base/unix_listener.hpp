#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

#include "base/fork_guard.hpp"
#include "base/unique_fd.hpp"

namespace vmthaw {

enum class AcceptStatus : std::uint8_t {
    accepted,
    nothing,             // nobody waits
    out_of_descriptors,  // EMFILE, ENFILE, ENOMEM: the VMM keeps its place in the queue; try again after a pause
    failed,              // see errno_value: the listening socket itself is broken
};

struct AcceptOutcome {
    AcceptStatus status = AcceptStatus::nothing;
    UniqueFd socket;  // close-on-exec, non-blocking
    int errno_value = 0;
};

struct UnixListenerOptions {
    mode_t mode = 0600;              // of the socket file: who may connect
    std::optional<uid_t> owner_uid;  // of the socket file; needs CAP_CHOWN unless it is our own
    std::optional<gid_t> owner_gid;
    int backlog = 1024;
};

// accept4(2) on any listening stream socket. Never blocks on a non-blocking one.
[[nodiscard]] AcceptOutcome accept_connection(int listening_fd) noexcept;

// A listening UNIX stream socket. Its file has its mode from its first moment (less the umask) and its owner before the
// first connection; a live socket of somebody else is never taken, a stale one is replaced, anything else is left
// alone. "@name" is an abstract socket, which has no mode: check the peer's uid there. Removes only the very file it
// made, and not in a forked child. Set-up throws SystemError or ArgumentError; accept() is noexcept. Thread-safe but
// for close().
class UnixListener {
public:
    [[nodiscard]] static UnixListener create(const std::string& path, const UnixListenerOptions& options = {});
    // A listening socket that systemd or a parent made; its file is theirs and stays.
    [[nodiscard]] static UnixListener adopt(UniqueFd socket);

    UnixListener(UnixListener&& other) noexcept = default;
    UnixListener& operator=(UnixListener&& other) noexcept;
    UnixListener(const UnixListener&) = delete;
    UnixListener& operator=(const UnixListener&) = delete;
    ~UnixListener() { close(); }

    [[nodiscard]] int fd() const noexcept { return socket_.get(); }
    // As given ("@name" for abstract ones), or as the kernel names an adopted one.
    [[nodiscard]] const std::string& path() const noexcept { return path_; }
    [[nodiscard]] AcceptOutcome accept() const noexcept { return accept_connection(socket_.get()); }
    void close() noexcept;  // idempotent

private:
    UnixListener(UniqueFd socket, std::string path) noexcept : socket_(std::move(socket)), path_(std::move(path)) {}

    UniqueFd socket_;
    std::string path_;
    std::string file_;  // absolute; empty when there is no file of ours
    dev_t device_ = 0;
    ino_t inode_ = 0;
    ForkGuard guard_;
};

}  // namespace vmthaw
