#include "source/socket/page_connection.hpp"

#include <cerrno>
#include <mutex>
#include <utility>

#include "base/clock.hpp"
#include "source/socket/page_connection_state.hpp"

namespace vmthaw {

PageConnection::PageConnection(std::vector<ResolvedAddress> addresses, const PageConnectionOptions& options)
    : state_(std::make_unique<State>(std::move(addresses), options)) {}

PageConnection::~PageConnection() {
    if (fork_guard_.inherited()) {
        static_cast<void>(state_.release());  // NOLINT(bugprone-unused-return-value): its lock is the parent's
    }
}

int PageConnection::connect() noexcept {
    if (fork_guard_.inherited()) {
        return EBADF;
    }
    State& state = *state_;
    std::unique_lock lock(state.mutex);
    for (std::size_t i = 0; i < state.addresses.size() && state.link != State::Link::up; ++i) {
        const std::uint64_t begin_ns = monotonic_ns();
        state.begin_connect(begin_ns);
        while (state.link == State::Link::connecting) {
            state.wait_to_connect(lock, monotonic_ns());
        }
    }
    state.pace.reset();
    return state.link == State::Link::up ? 0 : state.link_errno;
}

ReadResult PageConnection::read(std::uint64_t ipa, std::span<std::byte> out) noexcept {
    if (fork_guard_.inherited()) {
        return {.status = ReadStatus::closed};
    }
    load_.fetch_add(1, std::memory_order_relaxed);
    State& state = *state_;
    PageRead read(ipa, out, monotonic_ns());
    {
        std::unique_lock lock(state.mutex);
        if (state.closed) {
            read.result.status = ReadStatus::closed;
        } else {
            state.pipeline.add(read);
            if (state.led) {
                // The leader sleeps in poll(): what can be sent now must not wait for it.
                if (state.link == State::Link::up && state.send_errno == 0) {
                    state.send_requests();
                }
                read.news.wait(lock, [&read] { return read.done || read.leads; });
            }
            if (!read.done) {
                state.led = true;
                state.lead(lock, read);
                state.led = false;
                if (PageRead* successor = state.pipeline.first()) {
                    state.led = true;
                    successor->leads = true;
                    successor->news.notify_one();
                }
            }
        }
    }
    load_.fetch_sub(1, std::memory_order_relaxed);
    return read.result;
}

void PageConnection::close() noexcept {
    if (fork_guard_.inherited()) {
        return;
    }
    const std::lock_guard lock(state_->mutex);
    state_->closed = true;
    if (!state_->led) {
        state_->socket.close();
        state_->link = State::Link::down;
    }
    state_->wake.signal();
}

PageConnectionStats PageConnection::stats() const {
    fork_guard_.check("the connection to a page server");
    const std::lock_guard lock(state_->mutex);
    PageConnectionStats result = state_->counters;
    result.pages = state_->pipeline.answered_pages();
    result.repeated = state_->pipeline.repeated_requests();
    return result;
}

std::string PageConnection::last_problem() const {
    if (fork_guard_.inherited()) {
        return {};
    }
    const std::lock_guard lock(state_->mutex);
    return state_->problem;
}

}  // namespace vmthaw
