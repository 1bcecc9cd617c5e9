#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/event_fd.hpp"
#include "base/unique_fd.hpp"

namespace vmthaw {

// The control thread: sockets, pidfds and timers of all servers of the process. Callbacks run on it, one at a time,
// must not block and must not throw. post() may be called from any thread; the others only on the control thread
// (or through post()). Never on the path of a fault.
class ControlLoop {
public:
    using Callback = std::function<void()>;
    using TimerId = std::uint64_t;

    ControlLoop();  // throws SystemError
    ~ControlLoop();
    ControlLoop(const ControlLoop&) = delete;
    ControlLoop& operator=(const ControlLoop&) = delete;

    void post(Callback callback);
    // Runs `callback` there and waits for its end. Rethrows what it throws;
    // StateError when the loop has been stopped. Never call it on the control thread.
    void run_and_wait(const Callback& callback);

    // Calls `callback` whenever `fd` has one of the poll(2) `events` (EPOLLIN, EPOLLRDHUP, ...). Throws SystemError.
    void watch(int fd, std::uint32_t events, std::function<void(std::uint32_t)> callback);
    void unwatch(int fd) noexcept;
    TimerId call_after(std::uint64_t delay_ns, Callback callback);
    void cancel(TimerId timer) noexcept;

    void stop() noexcept;
    [[nodiscard]] bool on_this_thread() const noexcept { return std::this_thread::get_id() == thread_.get_id(); }

private:
    struct Watch {
        std::function<void(std::uint32_t)> callback;
    };

    void run() noexcept;
    void obey() noexcept;
    int run_timers() noexcept;  // milliseconds to the next one, or -1

    UniqueFd epoll_;
    EventFd wake_;
    std::mutex mutex_;
    std::vector<Callback> posted_;
    bool ended_ = false;  // what is posted now is dropped
    std::unordered_map<int, std::shared_ptr<Watch>> watches_;
    std::map<std::pair<std::uint64_t, TimerId>, Callback> timers_;
    TimerId next_timer_ = 1;
    std::atomic<bool> stopping_{false};
    std::thread thread_;
};

}  // namespace vmthaw
