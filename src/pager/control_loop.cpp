#include "pager/control_loop.hpp"

#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <future>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "base/log.hpp"
#include "base/thread.hpp"

namespace vmthaw {
namespace {

// Nothing escapes a thread: a callback that throws (out of memory, mostly) is reported and survived.
template <typename Callable>
void guarded(const Callable& callable) noexcept {
    try {
        callable();
    } catch (const std::exception& error) {
        log_line(LogLevel::error, "control", error.what());
    }
}

}  // namespace

ControlLoop::ControlLoop() : epoll_(check_errno(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1")) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = wake_.fd();
    check_errno(::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_.fd(), &event), "epoll_ctl(ADD eventfd)");
    thread_ = start_thread("vmthaw-control", [this] { run(); });
}

ControlLoop::~ControlLoop() { stop(); }

void ControlLoop::stop() noexcept {
    stopping_.store(true);
    wake_.signal();
    if (thread_.joinable()) {
        thread_.join();
    }
    obey();                         // whoever waits in run_and_wait() must wake
    std::vector<Callback> dropped;  // destroyed outside the lock: who knows what a callback holds the last reference to
    const std::lock_guard lock(mutex_);
    ended_ = true;
    dropped.swap(posted_);
}

void ControlLoop::post(Callback callback) {
    {
        const std::lock_guard lock(mutex_);
        if (ended_) {
            return;
        }
        posted_.push_back(std::move(callback));
    }
    wake_.signal();
}

void ControlLoop::run_and_wait(const Callback& callback) {
    auto done = std::make_shared<std::promise<void>>();
    std::future<void> future = done->get_future();
    post([done = std::move(done), callback] {
        try {
            callback();
            done->set_value();
        } catch (...) {
            done->set_exception(std::current_exception());
        }
    });
    try {
        future.get();
    } catch (const std::future_error&) {
        throw StateError("the control thread has ended");  // before it came to this
    }
}

void ControlLoop::watch(int fd, std::uint32_t events, std::function<void(std::uint32_t)> callback) {
    epoll_event event{};
    event.events = events;
    event.data.fd = fd;
    check_errno(::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event), "epoll_ctl(ADD)");
    watches_[fd] = std::make_shared<Watch>(Watch{std::move(callback)});
}

void ControlLoop::unwatch(int fd) noexcept {
    if (watches_.erase(fd) > 0) {
        ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
    }
}

ControlLoop::TimerId ControlLoop::call_after(std::uint64_t delay_ns, Callback callback) {
    const TimerId id = next_timer_++;
    timers_.emplace(std::pair{deadline_ns(delay_ns), id}, std::move(callback));
    return id;
}

void ControlLoop::cancel(TimerId timer) noexcept {
    std::erase_if(timers_, [timer](const auto& entry) { return entry.first.second == timer; });
}

void ControlLoop::obey() noexcept {
    std::vector<Callback> posted;
    {
        const std::lock_guard lock(mutex_);
        posted.swap(posted_);
    }
    for (const Callback& callback : posted) {
        guarded(callback);
    }
}

int ControlLoop::run_timers() noexcept {
    while (!timers_.empty()) {
        const std::uint64_t due_ns = timers_.begin()->first.first;
        const std::uint64_t now_ns = monotonic_ns();
        if (due_ns > now_ns) {
            constexpr std::uint64_t kMillisecond = 1'000'000;
            return static_cast<int>(std::min<std::uint64_t>((due_ns - now_ns) / kMillisecond + 1, 60'000));
        }
        const Callback callback = std::move(timers_.begin()->second);
        timers_.erase(timers_.begin());
        guarded(callback);
    }
    return -1;
}

void ControlLoop::run() noexcept {
    constexpr int kBatch = 64;
    std::array<epoll_event, kBatch> events{};
    while (!stopping_.load(std::memory_order_relaxed)) {
        const int timeout_ms = run_timers();
        const int count = ::epoll_wait(epoll_.get(), events.data(), kBatch, timeout_ms);
        for (int i = 0; i < count; ++i) {
            const epoll_event& event = events[static_cast<std::size_t>(i)];
            if (event.data.fd == wake_.fd()) {
                wake_.drain();
                obey();
                continue;
            }
            // An earlier callback of this batch may have ended this watch; the copy outlives its own unwatch().
            if (const auto found = watches_.find(event.data.fd); found != watches_.end()) {
                const std::shared_ptr<Watch> watch = found->second;
                guarded([&] { watch->callback(event.events); });
            }
        }
    }
}

}  // namespace vmthaw
