#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/fork_guard.hpp"
#include "source/page_source.hpp"

namespace vmthaw {

// Reads that wait for somebody else's threads to answer them: readers call ask(), servers loop over next() and answer
// with complete() or fail(). Bounded; any number of threads on both sides; no lock is held while a caller's bytes are
// copied. In a forked child every call answers as if closed, and destruction touches no lock.
class RequestQueue {
public:
    struct Request {
        std::uint64_t id;
        std::uint64_t offset;
        std::uint64_t size;
    };

    // At most `capacity` (>= 1) requests wait to be taken; ask() gives up `timeout` after it was called.
    RequestQueue(std::size_t capacity, std::chrono::milliseconds timeout);
    RequestQueue(const RequestQueue&) = delete;
    RequestQueue& operator=(const RequestQueue&) = delete;
    RequestQueue(RequestQueue&&) = delete;
    RequestQueue& operator=(RequestQueue&&) = delete;
    ~RequestQueue();

    // Blocks until answered. io_error(ETIMEDOUT) when nobody did in time, `closed` once the queue is.
    [[nodiscard]] ReadResult ask(std::uint64_t offset, std::span<std::byte> out) noexcept;

    // The oldest request not taken yet; none at the time-out or when closed.
    [[nodiscard]] std::optional<Request> next(std::chrono::milliseconds timeout) noexcept;
    // Waits for one as next() does, then takes what else waits as far as `out` has room. How many it took.
    [[nodiscard]] std::size_t next(std::chrono::milliseconds timeout, std::span<Request> out) noexcept;
    // Copies the answer to the reader: fewer bytes than asked become short_read, more io_error(EMSGSIZE).
    // False when the reader has given up or the queue is closed; nothing is touched then.
    bool complete(std::uint64_t id, std::span<const std::byte> bytes) noexcept;
    // `why` is kept, for why(), be the reader still there or not.
    bool fail(std::uint64_t id, int errno_value, std::string why = {}) noexcept;
    // What the latest fail() with this errno said, of the few errnos that were met last; "" when none did.
    [[nodiscard]] std::string why(int errno_value) const;

    // Ends every ask() and next(), now and later. Idempotent.
    void close() noexcept;
    [[nodiscard]] bool is_closed() const noexcept;
    // How many reads nobody has taken yet.
    [[nodiscard]] std::size_t waiting() const noexcept;
    [[nodiscard]] std::chrono::milliseconds timeout() const noexcept { return timeout_; }

private:
    struct Waiter;
    struct State;

    [[nodiscard]] bool finish(std::uint64_t id, const ReadResult& result, std::span<const std::byte> bytes) noexcept;

    std::chrono::milliseconds timeout_;
    ForkGuard fork_guard_;
    std::unique_ptr<State> state_;
};

}  // namespace vmthaw
