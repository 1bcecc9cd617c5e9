#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "source/socket/page_connection_state.hpp"

// What the reader who leads does for all: connect, send, receive, drop, give up.
namespace vmthaw {
namespace {

constexpr std::uint64_t kConnectPatience_ns = 2'000'000'000;
constexpr std::uint32_t kMostDrops = 4;

ReadResult io_error(int errno_value) noexcept {
    return {.status = ReadStatus::io_error, .errno_value = errno_value, .got_bytes = 0};
}

std::uint64_t until(std::uint64_t moment_ns, std::uint64_t now_ns) noexcept {
    return moment_ns > now_ns ? moment_ns - now_ns : 0;
}

}  // namespace

void PageConnection::State::lead(std::unique_lock<std::mutex>& lock, const PageRead& own) {
    while (!own.done) {
        if (closed) {
            if (link != Link::down) {
                socket.close();
                link = Link::down;
            }
            pipeline.disconnected();
            pipeline.fail_all({.status = ReadStatus::closed});
            return;
        }
        const std::uint64_t now_ns = monotonic_ns();
        if (send_errno != 0) {
            drop(std::exchange(send_errno, 0));
        }
        expire(now_ns);
        if (own.done) {
            return;
        }
        if (link == Link::down && pace.is_due(now_ns)) {
            begin_connect(now_ns);
        }
        if (link == Link::up) {
            exchange(lock, now_ns);
        } else {
            wait_to_connect(lock, now_ns);
        }
    }
}

void PageConnection::State::begin_connect(std::uint64_t now_ns) noexcept {
    attempt_ns = now_ns;
    int errno_value = 0;
    socket = StreamSocket::begin_connect(addresses[next_address++ % addresses.size()], errno_value);
    link = Link::connecting;
    if (errno_value != EINPROGRESS) {
        finish_connect(errno_value);
    }
}

void PageConnection::State::finish_connect(int errno_value) noexcept {
    if (errno_value == 0) {
        socket.tune(options.timeout_ns);
        link = Link::up;
        link_errno = 0;
        full_receive = false;
        ++counters.connections;
        return;
    }
    socket.close();
    link = Link::down;
    link_errno = errno_value;
    pace.failed(monotonic_ns());
}

// Until the pause is over or the attempt has an end.
void PageConnection::State::wait_to_connect(std::unique_lock<std::mutex>& lock, std::uint64_t now_ns) {
    const bool is_connecting = link == Link::connecting;
    const std::uint64_t next_ns = is_connecting ? attempt_ns + kConnectPatience_ns : pace.due_ns();
    if (is_connecting && until(next_ns, now_ns) == 0) {
        finish_connect(ETIMEDOUT);
        return;
    }
    const std::uint64_t timeout_ns = std::min(until(next_ns, now_ns), patience_ns(now_ns));
    const int fd = is_connecting ? socket.fd() : -1;
    lock.unlock();
    const short ready = wait_for(fd, POLLOUT, wake, timeout_ns);
    lock.lock();
    if (is_connecting && ready != 0) {
        finish_connect(socket.finish_connect());
    }
}

void PageConnection::State::send_requests() noexcept {
    for (;;) {
        const std::span<const std::byte> bytes = pipeline.to_send();
        if (bytes.empty()) {
            return;
        }
        const TransferOutcome outcome = socket.send(bytes);
        if (outcome.errno_value != 0) {
            if (!outcome.would_block()) {
                send_errno = outcome.errno_value;
            }
            wake.signal();  // the leader drops the connection, or waits for room
            return;
        }
        pipeline.sent(outcome.bytes);
    }
}

// One turn: requests out, replies in, straight to where the readers want them.
void PageConnection::State::exchange(std::unique_lock<std::mutex>& lock, std::uint64_t now_ns) {
    send_requests();
    if (send_errno != 0) {
        return;
    }
    const std::span<iovec> targets = pipeline.targets();
    std::uint64_t wanted = 0;
    for (const iovec& target : targets) {
        wanted += target.iov_len;
    }
    const short events = pipeline.has_unsent() ? POLLIN | POLLOUT : POLLIN;
    const std::uint64_t timeout_ns = patience_ns(now_ns);
    const bool at_once = full_receive;
    const int fd = socket.fd();
    lock.unlock();
    // Readers come and ask meanwhile; none leaves, because only whoever leads finishes reads.
    TransferOutcome got{0, EAGAIN};
    if (at_once || (wait_for(fd, events, wake, timeout_ns) & (POLLIN | POLLHUP | POLLERR)) != 0) {
        got = socket.receive(targets);
    }
    lock.lock();
    full_receive = got.bytes == wanted;
    if (!got.would_block()) {
        take_replies(got);
    }
}

void PageConnection::State::take_replies(const TransferOutcome& got) {
    if (got.bytes == 0) {
        drop(got.errno_value == 0 ? ECONNRESET : got.errno_value);
        return;
    }
    const std::uint64_t before = pipeline.answered_pages();
    const ReplyVerdict verdict = pipeline.received(got.bytes);
    if (pipeline.answered_pages() != before) {
        progress_ns = monotonic_ns();
        pace.reset();
    }
    if (verdict == ReplyVerdict::good) {
        return;
    }
    PageRead* const culprit = pipeline.front_read();
    const PageRequest asked = pipeline.front().value_or(PageRequest{});
    const PageRequest echo = pipeline.wrong_echo();
    if (verdict == ReplyVerdict::refused) {
        problem = "it says that it cannot read the page at " + hex(asked.ipa);
        pace.reset();  // it is there and answers: other pages need not wait
    } else {
        problem = "it answered " + hex(echo.ipa) + " (" + std::to_string(echo.page_size) + " bytes) when " +
                  hex(asked.ipa) + " (" + std::to_string(asked.page_size) + " bytes) was asked";
    }
    drop(EPROTO);
    if (culprit != nullptr && !culprit->done) {
        pipeline.fail(*culprit, io_error(verdict == ReplyVerdict::refused ? EREMOTEIO : EPROTO));
    }
}

void PageConnection::State::drop(int errno_value) {
    if (link != Link::up) {
        return;
    }
    socket.close();
    link = Link::down;
    link_errno = errno_value;
    ++counters.lost;
    PageRead* const front = pipeline.front_read();
    pipeline.disconnected();
    // A server that ends the connection instead of answering a page: this page's fault, after so many.
    const std::uint64_t now_ns = monotonic_ns();
    if (front != nullptr && pipeline.drops_of(*front) >= kMostDrops &&
        until(front->start_ns + options.timeout_ns, now_ns) == 0) {
        pipeline.fail(*front, io_error(errno_value));
    }
    pace.failed(now_ns);
}

void PageConnection::State::expire(std::uint64_t now_ns) {
    PageRead* next = nullptr;
    for (PageRead* read = pipeline.first(); read != nullptr; read = next) {
        next = read->next;
        if (read->done || !is_expired(*read, now_ns)) {
            continue;
        }
        const int errno_value = link == Link::up || link_errno == 0 ? ETIMEDOUT : link_errno;
        if (pipeline.is_in_flight(*read)) {
            problem = "no page came for " + std::to_string(options.timeout_ns / 1'000'000) + " ms";
            drop(ETIMEDOUT);
        }
        if (!read->done) {
            pipeline.fail(*read, io_error(errno_value));
        }
    }
}

std::uint64_t PageConnection::State::patience_ns(std::uint64_t now_ns) const noexcept {
    std::uint64_t least = options.timeout_ns;
    for (const PageRead* read = pipeline.first(); read != nullptr; read = read->next) {
        least = std::min(least, until(give_up_ns(*read), now_ns));
    }
    return least;
}

}  // namespace vmthaw
