#include "fuse/fuse_server.hpp"

#include <sched.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <new>
#include <utility>

#include "base/error.hpp"
#include "base/log.hpp"
#include "base/thread.hpp"

namespace vmthaw {
namespace {

constexpr unsigned kMostThreads = 256;
constexpr std::chrono::milliseconds kBusyPause{10};
constexpr std::chrono::milliseconds kUnmountPause{200};

// Modes come from the client with its own umask taken off: ours must not take off more. A umask is a process's, unless
// a thread has it for itself.
void take_own_umask() noexcept {
    if (::unshare(CLONE_FS) == 0) {
        ::umask(0);
    }
}

}  // namespace

// A reader's place among those that stop() ends.
class FuseServer::Place {
public:
    Place(FuseServer& server, FuseReader& reader) : server_(server), reader_(reader) { server_.enter(reader_); }
    ~Place() { server_.leave(reader_); }
    Place(const Place&) = delete;
    Place& operator=(const Place&) = delete;

private:
    FuseServer& server_;
    FuseReader& reader_;
};

FuseServer::FuseServer(std::shared_ptr<FuseDispatcher> dispatcher, const std::string& mount_point,
                       const FuseMountOptions& options, bool splices)
    : dispatcher_(std::move(dispatcher)), splices_(splices), mount_(mount_point, options) {}

FuseServer::~FuseServer() {
    if (guard_.inherited()) {
        // Its locks may be held by threads that do not exist here: what it shares is leaked.
        [[maybe_unused]] auto* const leaked =
            new (std::nothrow) std::shared_ptr<FuseDispatcher>(std::move(dispatcher_));
    } else {
        stop(std::chrono::milliseconds(0));
    }
    for (std::thread& thread : threads_) {  // NOLINT(clang-analyzer-cplusplus.NewDeleteLeaks): see above
        join_or_abandon(thread, guard_);
    }
}

void FuseServer::start(unsigned threads) {
    guard_.check("this FuseServer");
    if (threads == 0 || threads > kMostThreads) {
        throw ArgumentError("threads must be from 1 to " + std::to_string(kMostThreads));
    }
    if (dispatcher_->file_system()->takes_gil()) {
        throw StateError("a file system in Python is served by Python's threads: call serve() on each");
    }
    std::vector<std::shared_ptr<FuseReader>> readers;
    for (unsigned index = 0; index < threads; ++index) {
        readers.push_back(std::make_shared<FuseReader>(mount_.device(), *dispatcher_, counters_, splices_));
    }
    const std::lock_guard starting(stop_mutex_);
    if (!threads_.empty()) {
        throw StateError("this FuseServer has been started before");
    }
    for (const auto& reader : readers) {
        threads_.push_back(start_thread("vmthaw-fuse-" + std::to_string(threads_.size()), [this, reader] {
            take_own_umask();
            read(*reader);
        }));
    }
}

void FuseServer::serve() {
    guard_.check("this FuseServer");
    std::shared_ptr<FuseReader> reader;
    try {
        reader = std::make_shared<FuseReader>(mount_.device(), *dispatcher_, counters_, splices_);
    } catch (const SystemError&) {
        const std::lock_guard lock(mutex_);
        if (!ended_) {
            throw;
        }
    }
    if (reader == nullptr) {
        throw StateError("this FuseServer has been stopped");
    }
    read(*reader);
}

void FuseServer::read(FuseReader& reader) {
    reader.bind();
    const Place place(*this, reader);
    [[maybe_unused]] const FuseReader::End end = reader.run();
}

void FuseServer::enter(FuseReader& reader) {
    const std::lock_guard lock(mutex_);
    began_ = true;
    readers_.push_back(&reader);
    if (ended_) {
        reader.end();  // it came too late, and leaves in its turn
    }
    changed_.notify_all();
}

void FuseServer::leave(FuseReader& reader) noexcept {
    {
        const std::lock_guard lock(mutex_);
        std::erase(readers_, &reader);
        if (!readers_.empty()) {
            return;
        }
        // Nobody reads any more: requests must fail, not wait.
        ended_ = true;
        static_cast<void>(mount_.device().cut());
    }
    dispatcher_->reset();  // may take the GIL: without our lock
    const std::lock_guard lock(mutex_);
    finished_ = true;
    changed_.notify_all();
}

void FuseServer::cut_all() noexcept {
    const std::lock_guard lock(mutex_);
    ended_ = true;
    static_cast<void>(mount_.device().cut());
    for (FuseReader* const reader : readers_) {
        reader->end();
    }
}

bool FuseServer::unmount_within(std::chrono::milliseconds patience) {
    const auto deadline = std::chrono::steady_clock::now() + patience;
    while (mount_.unmount(false) == EBUSY) {
        const auto left = deadline - std::chrono::steady_clock::now();
        if (left <= std::chrono::milliseconds(0)) {
            return false;
        }
        std::this_thread::sleep_for(std::min<std::chrono::nanoseconds>(kBusyPause, left));
    }
    return !mount_.mounted();
}

bool FuseServer::stop(std::chrono::milliseconds patience) {
    if (guard_.inherited()) {
        return true;
    }
    const std::lock_guard stopping(stop_mutex_);
    if (!unmount_within(patience)) {
        log_line(LogLevel::warning, "fuse", "files are still open in " + mount_.mount_point() + ": cutting them off");
        static_cast<void>(mount_.unmount(true));
    } else {
        // Other mount namespaces may still show it; those are cut off, too.
        std::unique_lock lock(mutex_);
        changed_.wait_for(lock, kUnmountPause, [&] { return readers_.empty(); });
    }
    cut_all();
    return finished_within(patience + kUnmountPause);
}

bool FuseServer::finished_within(std::chrono::milliseconds timeout) const {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, timeout, [&] { return finished_ || (ended_ && readers_.empty() && !began_); });
}

bool FuseServer::wait(std::chrono::milliseconds timeout) {
    guard_.check("this FuseServer");
    return finished_within(timeout);
}

bool FuseServer::serving() const {
    const std::lock_guard lock(mutex_);
    return !readers_.empty() && !ended_;
}

FuseServerStats FuseServer::stats() const {
    guard_.check("this FuseServer");
    const std::lock_guard lock(mutex_);
    return {.requests = counters_.requests.load(std::memory_order_relaxed),
            .replies = counters_.replies.load(std::memory_order_relaxed),
            .spliced = counters_.spliced.load(std::memory_order_relaxed),
            .unwanted = counters_.unwanted.load(std::memory_order_relaxed),
            .refused = counters_.refused.load(std::memory_order_relaxed),
            .readers = static_cast<std::uint32_t>(readers_.size())};
}

}  // namespace vmthaw
