#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "base/event_fd.hpp"
#include "base/unique_fd.hpp"
#include "source/socket/socket_address.hpp"

namespace vmthaw {

// What a transfer did: bytes moved, or why none were. Neither means that the peer has closed (receiving only).
struct TransferOutcome {
    std::size_t bytes = 0;
    int errno_value = 0;
    [[nodiscard]] bool would_block() const noexcept { return errno_value == EAGAIN; }
    [[nodiscard]] bool ended() const noexcept { return bytes == 0 && errno_value == 0; }
};

// One non-blocking stream socket, UNIX or TCP: each system call once, EINTR retried, no SIGPIPE. Move-only; sending on
// one thread while another receives is fine.
class StreamSocket {
public:
    StreamSocket() noexcept = default;
    explicit StreamSocket(UniqueFd fd) noexcept : fd_(std::move(fd)) {}

    // `errno_value` is 0 (connected), EINPROGRESS (wait for POLLOUT, then finish_connect()) or why not. Noexcept: it is
    // called between faults.
    [[nodiscard]] static StreamSocket begin_connect(const ResolvedAddress& address, int& errno_value) noexcept;
    // 0 or the errno of the connection that begin_connect() began.
    [[nodiscard]] int finish_connect() const noexcept;
    // A TCP socket that listens. Throws SystemError.
    [[nodiscard]] static StreamSocket listen_tcp(const ResolvedAddress& address, int backlog);
    // The port that the kernel chose for a socket bound to port 0. Throws SystemError.
    [[nodiscard]] std::uint16_t local_port() const;

    [[nodiscard]] explicit operator bool() const noexcept { return static_cast<bool>(fd_); }
    [[nodiscard]] int fd() const noexcept { return fd_.get(); }
    [[nodiscard]] TransferOutcome send(std::span<const std::byte> bytes) const noexcept;
    // Takes what was sent off the vectors.
    [[nodiscard]] TransferOutcome send(std::span<iovec> vectors) const noexcept;
    [[nodiscard]] TransferOutcome receive(std::span<iovec> vectors) const noexcept;
    [[nodiscard]] TransferOutcome receive(std::span<std::byte> bytes) const noexcept;
    // No delay for small requests, and an end to a connection whose peer acknowledges nothing for that long (TCP; other
    // sockets do not care). Best effort.
    void tune(std::uint64_t unacknowledged_ns) const noexcept;
    void shut_down_sending() const noexcept;
    void close() noexcept { fd_.reset(); }

private:
    UniqueFd fd_;
};

// poll(2) for `events` of a descriptor (-1: none), bounded, and ended by `wake`, which is drained. Returns what the
// descriptor is ready for; 0 also when a signal came.
[[nodiscard]] short wait_for(int fd, short events, const EventFd& wake, std::uint64_t timeout_ns) noexcept;

}  // namespace vmthaw
