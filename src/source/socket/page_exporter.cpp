#include "source/socket/page_exporter.hpp"

#include <poll.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <condition_variable>
#include <exception>
#include <iterator>
#include <list>
#include <mutex>
#include <new>
#include <optional>
#include <utility>
#include <vector>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "base/log.hpp"
#include "base/page.hpp"
#include "base/thread.hpp"
#include "base/unix_listener.hpp"
#include "source/socket/exporter_client.hpp"
#include "source/socket/page_wire.hpp"
#include "source/socket/stream_socket.hpp"

namespace vmthaw {
namespace {

constexpr std::size_t kMostClients = 4096;
constexpr int kBacklog = 1024;
constexpr std::uint64_t kAcceptPause_ns = 50'000'000;
constexpr std::uint64_t kForever_ns = 3600 * kSecond_ns;

void check_exporter_options(const std::shared_ptr<PageSource>& source, const PageExporterOptions& options) {
    if (source == nullptr) {
        throw ArgumentError("an exporter needs a source to serve");
    }
    if (!std::has_single_bit(options.max_page_size) || options.max_page_size < kPageBytes ||
        options.max_page_size > kMaxWirePageSize) {
        throw ArgumentError("max_page_size must be a power of two from 4096 to 1 GiB, not " +
                            std::to_string(options.max_page_size));
    }
    if (options.max_clients == 0 || options.max_clients > kMostClients) {
        throw ArgumentError("max_clients must be from 1 to 4096, not " + std::to_string(options.max_clients));
    }
    if (options.send_timeout_ns == 0 || options.idle_timeout_ns == 0) {
        throw ArgumentError("the time-outs of an exporter must be more than 0 seconds");
    }
    if ((options.mode & ~mode_t{0777}) != 0) {
        throw ArgumentError("mode must be permission bits such as 0o600");
    }
}

StreamSocket listen_somewhere(const SocketAddress& address) {
    const std::vector<ResolvedAddress> candidates = address.resolve();
    for (std::size_t i = 0;; ++i) {
        try {
            return StreamSocket::listen_tcp(candidates[i], kBacklog);
        } catch (const SystemError& error) {
            if (i + 1 == candidates.size()) {
                throw SystemError(error.errno_value(), "listening on " + address.text(),
                                  "choose another port (0: any) or an address of this host");
            }
        }
    }
}

}  // namespace

struct PageExporter::State {
    // A client and its thread. The thread is joined by whoever finds it finished, or given up by close().
    struct Seat {
        Seat(StreamSocket socket, State& state)
            : client(std::move(socket), *state.source, state.client_options, state.counters) {}
        ExporterClient client;
        std::thread thread;
        bool finished = false;
    };

    State(std::shared_ptr<PageSource> served, const PageExporterOptions& chosen)
        : source(std::move(served)),
          options(chosen),
          client_options{
              {source->start(), source->size(), chosen.max_page_size}, chosen.send_timeout_ns, chosen.idle_timeout_ns} {
    }

    void accept_all(const std::shared_ptr<State>& self);
    void seat(const std::shared_ptr<State>& self, StreamSocket socket);
    void reap() noexcept;
    [[nodiscard]] int listening_fd() const noexcept { return unix_listener ? unix_listener->fd() : tcp_listener.fd(); }

    const std::shared_ptr<PageSource> source;
    const PageExporterOptions options;
    const ExporterClientOptions client_options;
    ExporterCounters counters;
    std::optional<UnixListener> unix_listener;
    StreamSocket tcp_listener;
    EventFd wake;  // for the acceptor
    std::atomic<bool> stopping{false};
    std::mutex mutex;
    std::condition_variable left;  // a client's thread is finished
    std::list<std::shared_ptr<Seat>> seats;
    bool closed = false;
};

PageExporter::PageExporter(std::shared_ptr<PageSource> source, const SocketAddress& address,
                           const PageExporterOptions& options)
    : address_(address) {
    check_exporter_options(source, options);
    state_ = std::make_shared<State>(std::move(source), options);
    if (address.is_unix()) {
        UnixListenerOptions listener;
        listener.mode = options.mode;
        listener.backlog = kBacklog;
        state_->unix_listener = UnixListener::create(address.path(), listener);
    } else {
        state_->tcp_listener = listen_somewhere(address);
        address_ = address.with_port(state_->tcp_listener.local_port());
    }
    acceptor_ = start_thread("vmthaw-export", [state = state_] { state->accept_all(state); });
}

PageExporter::~PageExporter() {
    if (fork_guard_.inherited()) {
        join_or_abandon(acceptor_, fork_guard_);
        // Its lock and its threads are the parent's: leaked.
        [[maybe_unused]] auto* const leaked = new (std::nothrow) std::shared_ptr<State>(std::move(state_));
        return;  // NOLINT(clang-analyzer-cplusplus.NewDeleteLeaks): see above
    }
    close();
}

void PageExporter::State::accept_all(const std::shared_ptr<State>& self) {
    while (!stopping.load()) {
        static_cast<void>(wait_for(listening_fd(), POLLIN, wake, kForever_ns));
        reap();
        for (bool more = true; more && !stopping.load();) {
            AcceptOutcome outcome = accept_connection(listening_fd());
            more = outcome.status == AcceptStatus::accepted;
            if (more) {
                seat(self, StreamSocket(std::move(outcome.socket)));
            } else if (outcome.status != AcceptStatus::nothing) {
                log_line(LogLevel::error, "exporter", "accepting a client failed; trying again");
                static_cast<void>(wait_for(-1, 0, wake, kAcceptPause_ns));
                reap();
            }
        }
    }
}

void PageExporter::State::seat(const std::shared_ptr<State>& self, StreamSocket socket) {
    const std::lock_guard lock(mutex);
    if (seats.size() >= options.max_clients) {
        counters.turned_away.fetch_add(1, std::memory_order_relaxed);
        log_line(LogLevel::warning, "exporter", "a client was turned away: max_clients are here already");
        return;
    }
    socket.tune(options.send_timeout_ns);
    try {
        auto seat = std::make_shared<Seat>(std::move(socket), *this);
        seats.push_back(seat);
        try {
            seat->thread = start_thread("vmthaw-client", [self, seat] {
                seat->client.run();
                const std::lock_guard guard(self->mutex);
                seat->finished = true;
                self->left.notify_all();
                self->wake.signal();
            });
        } catch (...) {
            seats.pop_back();
            throw;
        }
        counters.accepted.fetch_add(1, std::memory_order_relaxed);
    } catch (const std::exception& error) {  // no thread, descriptor or memory: the next may have more luck
        counters.turned_away.fetch_add(1, std::memory_order_relaxed);
        log_line(LogLevel::error, "exporter", error.what());
    }
}

// Joins the finished: their threads hold the lock for one more moment at most, so it must not be held here.
void PageExporter::State::reap() noexcept {
    std::list<std::shared_ptr<Seat>> finished;
    {
        const std::lock_guard lock(mutex);
        for (auto at = seats.begin(); at != seats.end();) {
            const auto next = std::next(at);
            if ((*at)->finished) {
                finished.splice(finished.end(), seats, at);
            }
            at = next;
        }
    }
    for (const std::shared_ptr<Seat>& seat : finished) {
        seat->thread.join();
    }
}

bool PageExporter::close(std::chrono::milliseconds patience) noexcept {
    if (fork_guard_.inherited()) {
        return true;
    }
    State& state = *state_;
    state.stopping.store(true);
    state.wake.signal();
    {
        const std::lock_guard lock(state.mutex);
        if (std::exchange(state.closed, true)) {
            return state.seats.empty();
        }
    }
    acceptor_.join();
    if (state.unix_listener) {
        state.unix_listener->close();
    }
    state.tcp_listener.close();
    bool all_left = false;
    {
        std::unique_lock lock(state.mutex);
        for (const auto& seat : state.seats) {
            seat->client.stop();
        }
        all_left = state.left.wait_for(lock, patience, [&state] {
            return std::ranges::all_of(state.seats, [](const auto& seat) { return seat->finished; });
        });
    }
    state.reap();
    if (!all_left) {
        log_line(LogLevel::warning, "exporter", "closed while its source holds a client's thread up");
        const std::lock_guard lock(state.mutex);
        for (const auto& seat : state.seats) {
            seat->thread.detach();  // it holds the state, and ends when the source answers
        }
        state.seats.clear();
    }
    return all_left;
}

bool PageExporter::closed() const {
    fork_guard_.check("PageExporter");
    const std::lock_guard lock(state_->mutex);
    return state_->closed;
}

PageExporterStats PageExporter::stats() const {
    fork_guard_.check("PageExporter");
    const ExporterCounters& counters = state_->counters;
    PageExporterStats result;
    result.accepted = counters.accepted.load(std::memory_order_relaxed);
    result.turned_away = counters.turned_away.load(std::memory_order_relaxed);
    result.pages = counters.pages.load(std::memory_order_relaxed);
    result.bytes = counters.bytes.load(std::memory_order_relaxed);
    result.bad_requests = counters.bad_requests.load(std::memory_order_relaxed);
    result.source_errors = counters.source_errors.load(std::memory_order_relaxed);
    result.slow_clients = counters.slow_clients.load(std::memory_order_relaxed);
    const std::lock_guard lock(state_->mutex);
    result.clients = static_cast<std::uint64_t>(
        std::ranges::count_if(state_->seats, [](const auto& seat) { return !seat->finished; }));
    return result;
}

}  // namespace vmthaw
