#include "pager/task_lane.hpp"

#include <algorithm>
#include <chrono>

#include "base/clock.hpp"
#include "base/log.hpp"
#include "base/thread.hpp"

namespace vmthaw {
namespace {

constexpr std::size_t kBounceBytes = 2U << 20U;
constexpr std::uint64_t kLongestWaitNs = 3'600'000'000'000;

bool is_background(const LaneTask& task) noexcept {
    return task.work != LaneWork::fill && task.work != LaneWork::prewarm;
}

}  // namespace

TaskLane::TaskLane(Options options) : options_(std::move(options)) {
    const std::lock_guard lock(mutex_);
    for (std::uint32_t i = 0; i < options_.min_threads; ++i) {
        start_thread_locked();
    }
}

TaskLane::~TaskLane() { stop(); }

void TaskLane::start_thread_locked() {
    threads_.push_back(start_thread("vmthaw-" + options_.name, [this] { work(); }));
}

void TaskLane::submit(LaneTask task, std::uint64_t delay_ns) noexcept {
    try {
        const std::lock_guard lock(mutex_);
        if (stopping_) {
            return;
        }
        if (delay_ns > 0) {
            delayed_.push({deadline_ns(delay_ns), order_++, std::move(task)});
        } else {
            (is_background(task) ? background_ : demand_).push_back(std::move(task));
        }
        // For delayed ones too: all who are busy may be blocked in one client's source when it becomes due.
        if (idle_ == 0 && threads_.size() < options_.max_threads) {
            start_thread_locked();
        }
    } catch (const std::exception& error) {
        // Out of memory or of threads: the threads there are will come to it, or the fault is lost loudly.
        log_line(LogLevel::error, "pager", error.what());
    }
    wake_.notify_one();
}

void TaskLane::promote_due() {
    const std::uint64_t now_ns = monotonic_ns();
    while (!delayed_.empty() && delayed_.top().due_ns <= now_ns) {
        LaneTask task = delayed_.top().task;
        delayed_.pop();
        (is_background(task) ? background_ : demand_).push_back(std::move(task));
    }
}

bool TaskLane::take_from(std::deque<LaneTask>& queue, LaneTask& task) {
    for (auto it = queue.begin(); it != queue.end(); ++it) {
        if (running(*it->client) < options_.client_share) {
            task = std::move(*it);
            queue.erase(it);
            return true;
        }
    }
    return false;
}

bool TaskLane::take(LaneTask& task) { return take_from(demand_, task) || take_from(background_, task); }

// Under the lock, by a thread that leaves with a task which may block for long: somebody else must be there for what is
// queued or becomes due meanwhile.
void TaskLane::keep_one_watching() noexcept {
    if (demand_.empty() && background_.empty() && delayed_.empty()) {
        return;
    }
    if (idle_ > 0) {
        wake_.notify_one();
        return;
    }
    if (stopping_ || threads_.size() >= options_.max_threads) {
        return;
    }
    try {
        start_thread_locked();
    } catch (const std::exception& error) {
        log_line(LogLevel::error, "pager", error.what());
    }
}

void TaskLane::work() noexcept {
    Mapping bounce;
    FillContext context;
    context.may_block = options_.may_block;
    context.handler = 0xFFFF;
    if (options_.may_block) {
        try {
            bounce = Mapping::anonymous(kBounceBytes);
            context.bounce = bounce.bytes();
        } catch (const Error& error) {
            log_line(LogLevel::error, "pager", error.what());
        }
    }
    std::unique_lock lock(mutex_);
    while (!stopping_) {
        promote_due();
        LaneTask task;
        if (take(task)) {
            LaneClient& client = *task.client;
            ++running(client);
            std::shared_ptr<LaneClient> keep = task.client;
            keep_one_watching();
            lock.unlock();
            client.run(std::move(task), context);
            lock.lock();
            --running(client);
            if (!demand_.empty() || !background_.empty()) {
                wake_.notify_one();  // a task may have waited for this client's share
            }
            // The last reference may destroy the client, which must not happen under the lock.
            lock.unlock();
            keep.reset();
            lock.lock();
            continue;
        }
        ++idle_;
        if (delayed_.empty()) {
            wake_.wait(lock);
        } else {
            const std::uint64_t due_ns = delayed_.top().due_ns;
            const std::uint64_t now_ns = monotonic_ns();
            if (due_ns > now_ns) {
                wake_.wait_for(lock, std::chrono::nanoseconds(std::min(due_ns - now_ns, kLongestWaitNs)));
            }
        }
        --idle_;
    }
}

void TaskLane::stop() noexcept {
    std::vector<std::thread> threads;
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
        threads.swap(threads_);
    }
    wake_.notify_all();
    for (std::thread& thread : threads) {
        thread.join();
    }
    const std::lock_guard lock(mutex_);
    demand_.clear();
    background_.clear();
    delayed_ = {};
}

std::size_t TaskLane::threads() const {
    const std::lock_guard lock(mutex_);
    return threads_.size();
}

}  // namespace vmthaw
