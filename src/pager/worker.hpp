#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/event_fd.hpp"
#include "base/unique_fd.hpp"

namespace vmthaw {

// Whose descriptor a worker waits on, edge-triggered: serve() is called on the worker's thread and must take all that
// is there. It must not throw and must not block for longer than a fill.
class WorkerClient {
public:
    WorkerClient() = default;
    WorkerClient(const WorkerClient&) = delete;
    WorkerClient& operator=(const WorkerClient&) = delete;
    WorkerClient(WorkerClient&&) = delete;
    WorkerClient& operator=(WorkerClient&&) = delete;
    virtual ~WorkerClient() = default;
    [[nodiscard]] virtual int descriptor() const noexcept = 0;
    virtual void serve(std::uint16_t worker) noexcept = 0;
    // The process whose faults it answers, -1 when unknown.
    [[nodiscard]] virtual pid_t process() const noexcept { return -1; }
    // The processor that its faults come from lately; -1: unknown, or there were hardly any since the last call.
    // `alone`: nobody else answers faults of that process. Called on the control thread; must not block.
    virtual int faulting_cpu(bool /*alone*/) noexcept { return -1; }
    // Looks for what no event tells. Called now and then, on the control thread; must not block.
    virtual void check() noexcept {}
};

// One pinned thread with one epoll set. attach() and detach() may be called from any thread; once `done` has run,
// the worker never touches the client again.
class Worker {
public:
    Worker(std::uint16_t number, int cpu);  // throws SystemError
    ~Worker();
    Worker(const Worker&) = delete;
    Worker& operator=(const Worker&) = delete;

    void attach(std::shared_ptr<WorkerClient> client);
    // Asynchronous; `done` runs on the worker's thread when it has let go.
    void detach(const WorkerClient* client, std::function<void()> done);
    void stop() noexcept;
    [[nodiscard]] int cpu() const noexcept { return cpu_; }

private:
    struct Command {
        std::shared_ptr<WorkerClient> attach;
        const WorkerClient* detach = nullptr;
        std::function<void()> done;
    };

    void post(Command command);
    void run() noexcept;
    void obey() noexcept;

    std::uint16_t number_;
    int cpu_;
    UniqueFd epoll_;
    EventFd wake_;
    std::mutex mutex_;
    std::vector<Command> commands_;
    std::unordered_map<const WorkerClient*, std::shared_ptr<WorkerClient>> clients_;  // the worker's own
    std::atomic<bool> stopping_{false};
    std::thread thread_;
};

}  // namespace vmthaw
