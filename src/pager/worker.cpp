#include "pager/worker.hpp"

#include <sys/epoll.h>

#include <array>

#include "base/log.hpp"
#include "base/thread.hpp"

namespace vmthaw {

Worker::Worker(std::uint16_t number, int cpu)
    : number_(number), cpu_(cpu), epoll_(check_errno(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1")) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.ptr = nullptr;
    check_errno(::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_.fd(), &event), "epoll_ctl(ADD eventfd)");
    thread_ = start_thread("vmthaw-work" + std::to_string(number), [this] { run(); }, cpu);
}

Worker::~Worker() { stop(); }

void Worker::stop() noexcept {
    stopping_.store(true);
    wake_.signal();
    if (thread_.joinable()) {
        thread_.join();
    }
    obey();  // nobody may wait for a command for ever
}

void Worker::post(Command command) {
    {
        const std::lock_guard lock(mutex_);
        commands_.push_back(std::move(command));
    }
    wake_.signal();
}

void Worker::attach(std::shared_ptr<WorkerClient> client) {
    Command command;
    command.attach = std::move(client);
    post(std::move(command));
}

void Worker::detach(const WorkerClient* client, std::function<void()> done) {
    Command command;
    command.detach = client;
    command.done = std::move(done);
    post(std::move(command));
}

void Worker::obey() noexcept {
    std::vector<Command> commands;
    {
        const std::lock_guard lock(mutex_);
        commands.swap(commands_);
    }
    for (Command& command : commands) {
        if (command.attach) {
            epoll_event event{};
            // Edge-triggered: level-triggered epoll polls the descriptor a second time before it sleeps, 0.15 us of a
            // fault. serve() therefore reads until it gets less than a whole batch.
            event.events = EPOLLIN | EPOLLET;
            event.data.ptr = command.attach.get();
            if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, command.attach->descriptor(), &event) != 0 &&
                errno != EEXIST) {
                log_line(LogLevel::error, "pager",
                         "epoll_ctl(ADD) failed: the process is out of epoll watches or memory");
            }
            clients_[command.attach.get()] = command.attach;
        }
        if (command.detach != nullptr) {
            if (const auto found = clients_.find(command.detach); found != clients_.end()) {
                ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, found->second->descriptor(), nullptr);
                clients_.erase(found);
            }
        }
        if (command.done) {
            command.done();
        }
    }
}

void Worker::run() noexcept {
    constexpr int kBatch = 64;
    std::array<epoll_event, kBatch> events{};
    while (!stopping_.load(std::memory_order_relaxed)) {
        const int count = ::epoll_wait(epoll_.get(), events.data(), kBatch, -1);
        bool commanded = false;
        for (int i = 0; i < count; ++i) {
            if (events[static_cast<std::size_t>(i)].data.ptr == nullptr) {
                commanded = true;
            } else {
                static_cast<WorkerClient*>(events[static_cast<std::size_t>(i)].data.ptr)->serve(number_);
            }
        }
        // Only after the whole batch: a detached client may stand later in it.
        if (commanded) {
            wake_.drain();
            obey();
        }
    }
}

}  // namespace vmthaw
