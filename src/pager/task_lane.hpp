#pragma once

#include <array>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <queue>
#include <string>
#include <thread>
#include <vector>

#include "base/mapping.hpp"
#include "pager/page_installer.hpp"

namespace vmthaw {

enum class LaneWork : std::uint8_t { fill, read, prewarm, working_set, populate, check, give_up };

class LaneClient;

struct LaneTask {
    std::shared_ptr<LaneClient> client;
    LaneWork work = LaneWork::fill;
    FillTask fill;
};

// Whoever gives work to a lane. run() is called on a lane's thread and must not throw.
class LaneClient {
public:
    LaneClient() = default;
    LaneClient(const LaneClient&) = delete;
    LaneClient& operator=(const LaneClient&) = delete;
    LaneClient(LaneClient&&) = delete;
    LaneClient& operator=(LaneClient&&) = delete;
    virtual ~LaneClient() = default;
    virtual void run(LaneTask task, const FillContext& context) noexcept = 0;

private:
    friend class TaskLane;
    std::array<std::uint32_t, 2> running_{};  // tasks under way on each lane, guarded by that lane's lock
};

// Threads for what must not hold up a fault: parked retries, blocking sources, background filling.
// Tasks wait for their due time; demand goes before background; one client may not take more than `client_share`
// threads, so that a slow VM delays no other. Grows from `min_threads` to `max_threads` while all are busy.
// Off the common path: submit() takes a lock and may allocate. Thread-safe.
class TaskLane {
public:
    struct Options {
        std::string name;
        std::uint32_t min_threads = 1;
        std::uint32_t max_threads = 1;
        std::uint32_t client_share = 1;
        bool may_block = false;  // also tells the two lanes of a runtime apart
    };

    explicit TaskLane(Options options);  // throws SystemError when a thread cannot be started
    ~TaskLane();                         // stop()
    TaskLane(const TaskLane&) = delete;
    TaskLane& operator=(const TaskLane&) = delete;

    void submit(LaneTask task, std::uint64_t delay_ns = 0) noexcept;
    // Ends the threads; tasks not begun are dropped. Idempotent.
    void stop() noexcept;
    [[nodiscard]] std::size_t threads() const;

private:
    struct Delayed {
        std::uint64_t due_ns;
        std::uint64_t order;
        LaneTask task;
        bool operator<(const Delayed& other) const noexcept {
            return due_ns != other.due_ns ? due_ns > other.due_ns : order > other.order;
        }
    };

    void start_thread_locked();
    void keep_one_watching() noexcept;
    void work() noexcept;
    [[nodiscard]] std::uint32_t& running(LaneClient& client) const noexcept {
        return client.running_[options_.may_block ? 1 : 0];
    }
    bool take(LaneTask& task);
    bool take_from(std::deque<LaneTask>& queue, LaneTask& task);
    void promote_due();

    const Options options_;
    mutable std::mutex mutex_;
    std::condition_variable wake_;
    std::deque<LaneTask> demand_;
    std::deque<LaneTask> background_;
    std::priority_queue<Delayed> delayed_;
    std::vector<std::thread> threads_;
    std::uint32_t idle_ = 0;
    std::uint64_t order_ = 0;
    bool stopping_ = false;
};

}  // namespace vmthaw
