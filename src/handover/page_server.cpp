#include "handover/page_server.hpp"

#include <sys/epoll.h>

#include <algorithm>

#include "base/clock.hpp"
#include "base/log.hpp"

namespace vmthaw {
namespace {

constexpr std::size_t kKeptEnded = 64;
constexpr std::size_t kKeptFailures = 256;

}  // namespace

std::shared_ptr<PageServer> PageServer::create(PageServerOptions options) {
    check_config(options.config);
    return std::shared_ptr<PageServer>(new PageServer(std::move(options)));
}

PageServer::PageServer(PageServerOptions options)
    : runtime_(Runtime::instance()), options_(std::move(options)), trace_records_(options_.config.trace_records) {}

PageServer::~PageServer() {
    if (guard_.inherited()) {
        return;
    }
    // Python's close() ran long ago, or nothing ever started: callbacks hold a shared_ptr to us.
    // A session may be telling us of its end right now; set_observer() waits for that, and must not hold the lock it
    // needs.
    std::vector<std::shared_ptr<PagerSession>> all;
    {
        const std::lock_guard lock(mutex_);
        for (const auto& [id, session] : sessions_) {
            all.push_back(session);
        }
        all.insert(all.end(), ended_.begin(), ended_.end());
    }
    for (const std::shared_ptr<PagerSession>& session : all) {
        session->set_observer(nullptr);
    }
}

void PageServer::start() {
    guard_.check("PageServer");
    {
        const std::lock_guard lock(mutex_);
        if (listening_ || !options_.listener) {
            return;
        }
        listening_ = true;
    }
    const std::shared_ptr<PageServer> self = shared_from_this();
    runtime_.control().run_and_wait([self] {
        self->runtime_.control().watch(self->options_.listener->fd(), EPOLLIN,
                                       [self](std::uint32_t) { self->on_connectable(); });
    });
}

// Nothing that is wrong with a hand-over may end in a VM that runs on with zeros for memory.
void PageServer::begin_session(Waiting waiting, std::shared_ptr<PageSource> source, GuestRuns working_set) {
    SessionOptions options{.userfaultfd = std::move(waiting.handover.userfaultfd),
                           .regions = std::move(waiting.handover.regions),
                           .source = std::move(source),
                           .config = options_.config,
                           .pid_fd = std::move(waiting.pid_fd),
                           .socket = std::move(waiting.handover.socket),
                           .label = std::move(waiting.label),
                           .prewarm = options_.prewarm,
                           .page_states = {},
                           .working_set = std::move(working_set)};
    const std::string from = "hand-over from " + options.label + ": ";
    const char* field = "regions";
    try {
        options.regions = check_regions(options_.layout.assign(options.regions), options.source.get());
        field = "failure_policy";
        begin(std::move(options));
    } catch (const Error& error) {
        const bool killed =
            apply_policy(options.userfaultfd, options.pid_fd, options.regions, options.config.failure_policy);
        add_failure(0, from + error.what() + (killed ? "; the VM was killed" : ""),
                    error.class_name() == "RegionError" ? "regions" : field);
    }
}

std::shared_ptr<PagerSession> PageServer::adopt(Userfaultfd userfaultfd, std::vector<Region> regions,
                                                std::shared_ptr<PageSource> source, PidFd pid_fd, std::string label,
                                                std::vector<std::vector<std::uint8_t>> page_states) {
    guard_.check("PageServer");
    std::vector<std::vector<std::uint8_t>> sorted_states;
    std::vector<Region> checked = check_regions(regions, source.get());
    if (!page_states.empty()) {
        if (page_states.size() != regions.size()) {
            throw ArgumentError("page_states must hold one entry for each of the " + std::to_string(regions.size()) +
                                " regions, got " + std::to_string(page_states.size()));
        }
        for (const Region& region : checked) {
            const auto found = std::ranges::find(regions, region);
            sorted_states.push_back(std::move(page_states[static_cast<std::size_t>(found - regions.begin())]));
        }
    }
    SessionOptions options{.userfaultfd = std::move(userfaultfd),
                           .regions = std::move(checked),
                           .source = std::move(source),
                           .config = options_.config,
                           .pid_fd = std::move(pid_fd),
                           .socket = {},
                           .label = std::move(label),
                           .prewarm = options_.prewarm,
                           .page_states = std::move(sorted_states),
                           .working_set = options_.working_set};
    return begin(std::move(options));
}

std::shared_ptr<PagerSession> PageServer::begin(SessionOptions&& options) {
    const std::shared_ptr<PagerSession> session = PagerSession::create(std::move(options), this);
    add_session(session);
    session->start();
    return session;
}

void PageServer::add_session(const std::shared_ptr<PagerSession>& session) {
    const std::lock_guard lock(mutex_);
    trace_session(*session);
    sessions_[session->id()] = session;
    ++session_count_;
}

void PageServer::add_failure(std::uint32_t session, const std::string& text, const std::string& field) {
    log_line(LogLevel::error, "server", text);
    {
        const std::lock_guard lock(mutex_);
        keep_failure({monotonic_ns(), session, text, field});
    }
    changed_.notify_all();
    push_event(SessionEventKind::failed, session);
}

void PageServer::keep_failure(ServerFailure failure) {
    ++(failure.session == 0 ? forgotten_.refused : forgotten_.failed);
    failures_.push_back(std::move(failure));
    if (failures_.size() > kKeptFailures) {
        failures_.pop_front();
    }
}

void PageServer::push_event(SessionEventKind kind, std::uint32_t session) noexcept {
    events_.push({monotonic_ns(), session, kind});
    events_ready_.signal();
}

std::vector<ServerEvent> PageServer::take_events() {
    events_ready_.drain();
    std::vector<ServerEvent> events;
    ServerEvent event{};
    while (events_.pop(event)) {
        events.push_back(event);
    }
    return events;
}

void PageServer::on_session_event(PagerSession& session, SessionEventKind kind) noexcept {
    // Once the session has left `sessions_` our destructor would no longer wait for this call.
    std::shared_ptr<PageServer> self = weak_from_this().lock();
    try {
        {
            const std::lock_guard lock(mutex_);
            if (kind == SessionEventKind::closed) {
                if (const auto found = sessions_.find(session.id()); found != sessions_.end()) {
                    ended_.push_back(found->second);
                    sessions_.erase(found);
                    if (ended_.size() > kKeptEnded) {
                        forgotten_.stats += snapshot(ended_.front()->counters());
                        ended_.pop_front();
                    }
                }
            } else if (kind == SessionEventKind::failed) {
                const std::vector<std::string> texts = session.failures();
                keep_failure({monotonic_ns(), session.id(), texts.empty() ? "failed" : texts.back(), "page"});
            } else {
                ready_ = true;
            }
        }
        changed_.notify_all();
        push_event(kind, session.id());
        // If that was the last reference: not here, where the session's observer is locked.
        runtime_.control().post([self = std::move(self)] {});
    } catch (const std::exception& error) {
        log_line(LogLevel::error, "server", error.what());
    }
}

void PageServer::on_session_forked(PagerSession& /*parent*/, std::shared_ptr<PagerSession> child) noexcept {
    try {
        add_session(child);
    } catch (const std::exception& error) {
        log_line(LogLevel::error, "server", error.what());
    }
}

bool PageServer::wait_ready(std::chrono::milliseconds timeout) {
    guard_.check("PageServer");
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, timeout, [this] { return ready_ || !listening_; });
}

bool PageServer::wait_ended(std::chrono::milliseconds timeout) {
    guard_.check("PageServer");
    std::unique_lock lock(mutex_);
    return changed_.wait_for(
        lock, timeout, [this] { return sessions_.empty() && waiting_.empty() && (session_count_ > 0 || !listening_); });
}

void PageServer::stop_listening() {
    guard_.check("PageServer");
    {
        const std::lock_guard lock(mutex_);
        if (!listening_) {
            if (options_.listener) {
                options_.listener->close();  // never started, or stopped already
            }
            return;
        }
        listening_ = false;
    }
    const std::shared_ptr<PageServer> self = shared_from_this();
    runtime_.control().run_and_wait([self] {
        self->runtime_.control().unwatch(self->options_.listener->fd());
        while (!self->connections_.empty()) {
            self->drop_connection(self->connections_.begin()->first);
        }
        self->options_.listener->close();
    });
    changed_.notify_all();
}

void PageServer::close() {
    guard_.check("PageServer");
    stop_listening();
    std::map<std::uint32_t, Waiting> waiting;
    {
        const std::lock_guard lock(mutex_);
        waiting.swap(waiting_);
    }
    for (auto& [number, vm] : waiting) {
        refuse_vm(vm, number, "the server was closed");
    }
    for (const std::shared_ptr<PagerSession>& session : sessions()) {
        session->set_observer(nullptr);
    }
}

}  // namespace vmthaw
