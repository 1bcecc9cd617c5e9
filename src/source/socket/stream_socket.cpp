#include "source/socket/stream_socket.hpp"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>

#include "base/error.hpp"

namespace vmthaw {
namespace {

template <typename Call>
TransferOutcome transfer(Call call) noexcept {
    for (;;) {
        const ssize_t moved = call();
        if (moved >= 0) {
            return {static_cast<std::size_t>(moved), 0};
        }
        if (errno != EINTR) {
            return {0, errno == EWOULDBLOCK ? EAGAIN : errno};
        }
    }
}

}  // namespace

StreamSocket StreamSocket::begin_connect(const ResolvedAddress& address, int& errno_value) noexcept {
    StreamSocket result(UniqueFd(::socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)));
    if (!result) {
        errno_value = errno;
        return result;
    }
    // Interrupted, it goes on by itself.
    errno_value = ::connect(result.fd(), address.get(), address.length) == 0 ? 0 : errno;
    if (errno_value == EINTR) {
        errno_value = EINPROGRESS;
    }
    return result;
}

int StreamSocket::finish_connect() const noexcept {
    int problem = 0;
    socklen_t length = sizeof problem;
    return ::getsockopt(fd(), SOL_SOCKET, SO_ERROR, &problem, &length) == 0 ? problem : errno;
}

StreamSocket StreamSocket::listen_tcp(const ResolvedAddress& address, int backlog) {
    StreamSocket result(
        UniqueFd(check_errno(::socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), "socket")));
    const int one = 1;
    check_errno(::setsockopt(result.fd(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one), "setsockopt(SO_REUSEADDR)");
    if (::bind(result.fd(), address.get(), address.length) != 0) {
        const int saved = errno;
        throw SystemError(saved, "bind of a TCP socket", "choose another port (0: any) or an address of this host");
    }
    check_errno(::listen(result.fd(), backlog), "listen");
    return result;
}

std::uint16_t StreamSocket::local_port() const {
    sockaddr_storage storage{};
    socklen_t length = sizeof storage;
    check_errno(::getsockname(fd(), reinterpret_cast<sockaddr*>(&storage), &length), "getsockname");
    // JUSTIFICATION: the family says which of the two the kernel wrote.
    return ntohs(storage.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6&>(storage).sin6_port
                                               : reinterpret_cast<const sockaddr_in&>(storage).sin_port);
}

TransferOutcome StreamSocket::send(std::span<const std::byte> bytes) const noexcept {
    return transfer([&] { return ::send(fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT); });
}

TransferOutcome StreamSocket::send(std::span<iovec> vectors) const noexcept {
    msghdr message{};
    message.msg_iov = vectors.data();
    message.msg_iovlen = vectors.size();
    const TransferOutcome outcome = transfer([&] { return ::sendmsg(fd(), &message, MSG_NOSIGNAL | MSG_DONTWAIT); });
    std::size_t left = outcome.bytes;
    for (iovec& vector : vectors) {
        const std::size_t taken = std::min(left, vector.iov_len);
        vector.iov_base = static_cast<std::byte*>(vector.iov_base) + taken;
        vector.iov_len -= taken;
        left -= taken;
    }
    return outcome;
}

TransferOutcome StreamSocket::receive(std::span<iovec> vectors) const noexcept {
    msghdr message{};
    message.msg_iov = vectors.data();
    message.msg_iovlen = vectors.size();
    return transfer([&] { return ::recvmsg(fd(), &message, MSG_DONTWAIT); });
}

TransferOutcome StreamSocket::receive(std::span<std::byte> bytes) const noexcept {
    return transfer([&] { return ::recv(fd(), bytes.data(), bytes.size(), MSG_DONTWAIT); });
}

void StreamSocket::tune(std::uint64_t unacknowledged_ns) const noexcept {
    const int one = 1;
    ::setsockopt(fd(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    ::setsockopt(fd(), SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
    const auto limit_ms = static_cast<unsigned>(std::clamp<std::uint64_t>(unacknowledged_ns / 1'000'000, 1, INT_MAX));
    ::setsockopt(fd(), IPPROTO_TCP, TCP_USER_TIMEOUT, &limit_ms, sizeof limit_ms);
}

void StreamSocket::shut_down_sending() const noexcept { ::shutdown(fd(), SHUT_WR); }

short wait_for(int fd, short events, const EventFd& wake, std::uint64_t timeout_ns) noexcept {
    std::array<pollfd, 2> waited{{{fd, events, 0}, {wake.fd(), POLLIN, 0}}};
    const std::uint64_t timeout_ms = timeout_ns / 1'000'000 + (timeout_ns % 1'000'000 != 0 ? 1 : 0);
    const int ready =
        ::poll(waited.data(), waited.size(), static_cast<int>(std::min<std::uint64_t>(timeout_ms, INT_MAX)));
    if (ready <= 0) {
        return 0;
    }
    if (waited[1].revents != 0) {
        wake.drain();
    }
    return waited[0].revents;
}

}  // namespace vmthaw
