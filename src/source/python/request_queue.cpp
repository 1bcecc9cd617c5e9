#include "source/python/request_queue.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <utility>
#include <vector>

#include "base/error.hpp"

namespace vmthaw {

// Lives on the stack of ask(), which does not leave before nobody can reach it: it is neither in `waiting` nor in
// `taken`, and no answer is being copied.
struct RequestQueue::Waiter {
    Request request;
    std::span<std::byte> out;
    bool copying = false;
    bool answered = false;
    ReadResult result;
};

struct RequestQueue::State {
    explicit State(std::size_t limit) : capacity(limit) {}

    std::mutex mutex;
    std::condition_variable work;      // for servers: something to take, or closed
    std::condition_variable progress;  // for readers: an answer, room, or closed
    std::size_t capacity;
    std::deque<Waiter*> waiting;
    std::vector<Waiter*> taken;
    std::uint64_t last_id = 0;
    bool closed = false;

    struct Reason {
        int errno_value = 0;
        std::string why;
    };
    std::array<Reason, 8> reasons;
    std::size_t next_reason = 0;

    void remember(int errno_value, std::string why) noexcept {
        auto found = std::find_if(reasons.begin(), reasons.end(),
                                  [errno_value](const Reason& reason) { return reason.errno_value == errno_value; });
        if (found == reasons.end()) {
            found = reasons.begin() + static_cast<std::ptrdiff_t>(next_reason++ % reasons.size());
        }
        *found = {errno_value, std::move(why)};
    }

    void forget(Waiter* waiter) {
        std::erase(waiting, waiter);
        std::erase(taken, waiter);
    }
    Waiter* find_taken(std::uint64_t id) {
        const auto found =
            std::find_if(taken.begin(), taken.end(), [id](const Waiter* waiter) { return waiter->request.id == id; });
        return found == taken.end() ? nullptr : *found;
    }
};

RequestQueue::RequestQueue(std::size_t capacity, std::chrono::milliseconds timeout)
    : timeout_(timeout), state_(std::make_unique<State>(capacity)) {
    if (capacity == 0) {
        throw ArgumentError("a queue for 0 requests could never answer one: max_queued must be at least 1");
    }
    if (timeout <= std::chrono::milliseconds::zero()) {
        throw ArgumentError("the time-out of a source must be more than 0 seconds");
    }
    state_->waiting.resize(capacity);  // the memory for a full queue, so that ask() seldom allocates
    state_->waiting.clear();
}

RequestQueue::~RequestQueue() {
    if (fork_guard_.inherited()) {
        // Destroying a condition variable waits for its waiters, and those exist in the parent only.
        static_cast<void>(state_.release());  // NOLINT(bugprone-unused-return-value): left to the parent
    }
}

ReadResult RequestQueue::ask(std::uint64_t offset, std::span<std::byte> out) noexcept {
    if (fork_guard_.inherited()) {
        return {.status = ReadStatus::closed};
    }
    try {
        State& state = *state_;
        const auto deadline = std::chrono::steady_clock::now() + timeout_;
        Waiter waiter{.request = {0, offset, out.size()}, .out = out, .result = {}};
        std::unique_lock lock(state.mutex);
        const bool room = state.progress.wait_until(
            lock, deadline, [&] { return state.closed || state.waiting.size() < state.capacity; });
        if (state.closed) {
            return {.status = ReadStatus::closed};
        }
        if (!room) {
            return {.status = ReadStatus::io_error, .errno_value = ETIMEDOUT};
        }
        waiter.request.id = ++state.last_id;
        state.taken.reserve(state.taken.size() + state.waiting.size() + 1);  // so that next() never allocates
        state.waiting.push_back(&waiter);
        state.work.notify_one();
        state.progress.wait_until(lock, deadline, [&] { return waiter.answered || state.closed; });
        // The server that is copying into `out` is bound to finish: it waits for nobody.
        state.progress.wait(lock, [&] { return !waiter.copying; });
        if (waiter.answered) {
            return waiter.result;
        }
        state.forget(&waiter);
        state.progress.notify_all();
        if (state.closed) {
            return {.status = ReadStatus::closed};
        }
        return {.status = ReadStatus::io_error, .errno_value = ETIMEDOUT};
    } catch (...) {
        return {.status = ReadStatus::io_error, .errno_value = ENOMEM};
    }
}

std::optional<RequestQueue::Request> RequestQueue::next(std::chrono::milliseconds timeout) noexcept {
    Request request{};
    return next(timeout, {&request, 1}) == 0 ? std::nullopt : std::optional(request);
}

std::size_t RequestQueue::next(std::chrono::milliseconds timeout, std::span<Request> out) noexcept {
    if (fork_guard_.inherited() || out.empty()) {
        return 0;
    }
    State& state = *state_;
    std::unique_lock lock(state.mutex);
    state.work.wait_for(lock, timeout, [&] { return state.closed || !state.waiting.empty(); });
    std::size_t count = 0;
    while (!state.closed && !state.waiting.empty() && count < out.size()) {
        Waiter* waiter = state.waiting.front();
        state.waiting.pop_front();
        state.taken.push_back(waiter);
        out[count++] = waiter->request;
    }
    if (count > 0) {
        state.progress.notify_all();  // there is room again
    }
    return count;
}

bool RequestQueue::complete(std::uint64_t id, std::span<const std::byte> bytes) noexcept {
    return finish(id, {}, bytes);
}

bool RequestQueue::fail(std::uint64_t id, int errno_value, std::string why) noexcept {
    if (!fork_guard_.inherited() && !why.empty()) {
        const std::lock_guard lock(state_->mutex);
        state_->remember(errno_value, std::move(why));
    }
    return finish(id, {.status = ReadStatus::io_error, .errno_value = errno_value}, {});
}

std::string RequestQueue::why(int errno_value) const {
    if (fork_guard_.inherited()) {
        return {};
    }
    const std::lock_guard lock(state_->mutex);
    for (const State::Reason& reason : state_->reasons) {
        if (reason.errno_value == errno_value) {
            return reason.why;
        }
    }
    return {};
}

bool RequestQueue::finish(std::uint64_t id, const ReadResult& result, std::span<const std::byte> bytes) noexcept {
    if (fork_guard_.inherited()) {
        return false;
    }
    State& state = *state_;
    std::unique_lock lock(state.mutex);
    Waiter* waiter = state.closed ? nullptr : state.find_taken(id);
    if (waiter == nullptr) {
        return false;
    }
    std::erase(state.taken, waiter);
    waiter->result = result;
    if (result.ok() && bytes.size() < waiter->out.size()) {
        waiter->result = {.status = ReadStatus::short_read, .got_bytes = bytes.size()};
    } else if (result.ok() && bytes.size() > waiter->out.size()) {
        waiter->result = {.status = ReadStatus::io_error, .errno_value = EMSGSIZE};
    } else if (result.ok() && !bytes.empty()) {
        waiter->copying = true;
        lock.unlock();
        std::memcpy(waiter->out.data(), bytes.data(), bytes.size());
        lock.lock();
        waiter->copying = false;
    }
    waiter->answered = true;
    state.progress.notify_all();
    return true;
}

void RequestQueue::close() noexcept {
    if (fork_guard_.inherited()) {
        return;
    }
    const std::lock_guard lock(state_->mutex);
    state_->closed = true;
    state_->work.notify_all();
    state_->progress.notify_all();
}

bool RequestQueue::is_closed() const noexcept {
    if (fork_guard_.inherited()) {
        return true;
    }
    const std::lock_guard lock(state_->mutex);
    return state_->closed;
}

std::size_t RequestQueue::waiting() const noexcept {
    if (fork_guard_.inherited()) {
        return 0;
    }
    const std::lock_guard lock(state_->mutex);
    return state_->waiting.size();
}

}  // namespace vmthaw
