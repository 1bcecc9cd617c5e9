#include "handover/page_server.hpp"

#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>

#include "base/clock.hpp"
#include "base/log.hpp"
#include "handover/peer.hpp"

namespace vmthaw {
namespace {

constexpr std::size_t kKeptEnded = 64;
constexpr std::size_t kKeptFailures = 256;
constexpr std::uint64_t kAcceptPauseNs = 100'000'000;
constexpr std::size_t kMaxConnections = 1024;  // half-done ones

}  // namespace

std::shared_ptr<PageServer> PageServer::create(PageServerOptions options) {
    check_config(options.config);
    return std::shared_ptr<PageServer>(new PageServer(std::move(options)));
}

PageServer::PageServer(PageServerOptions options) : runtime_(Runtime::instance()), options_(std::move(options)) {}

PageServer::~PageServer() {
    if (guard_.inherited()) {
        return;
    }
    // Python's close() ran long ago, or nothing ever started: callbacks hold a shared_ptr to us.
    for (const auto& [id, session] : sessions_) {
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

void PageServer::on_connectable() {
    for (;;) {
        if (!options_.listener || connections_.size() >= kMaxConnections) {
            return;
        }
        AcceptOutcome outcome = options_.listener->accept();
        switch (outcome.status) {
            case AcceptStatus::accepted:
                accept_one(std::move(outcome.socket));
                break;
            case AcceptStatus::nothing:
                return;
            case AcceptStatus::out_of_descriptors: {
                add_failure(0, "a VMM waits, but no descriptor is left to accept it; raise RLIMIT_NOFILE", "descriptors");
                runtime_.control().unwatch(options_.listener->fd());
                const std::shared_ptr<PageServer> self = shared_from_this();
                runtime_.control().call_after(kAcceptPauseNs, [self] {
                    if (self->listening()) {
                        self->runtime_.control().watch(self->options_.listener->fd(), EPOLLIN,
                                                       [self](std::uint32_t) { self->on_connectable(); });
                    }
                });
                return;
            }
            case AcceptStatus::failed:
                add_failure(0, SystemError(outcome.errno_value, "accept4").what(), "socket");
                runtime_.control().unwatch(options_.listener->fd());
                return;
        }
    }
}

void PageServer::accept_one(UniqueFd socket) {
    try {
        const PeerCredentials peer = peer_credentials(socket.get());
        if (options_.required_uid && peer.uid != *options_.required_uid) {
            add_failure(0,
                        "a hand-over from uid " + std::to_string(peer.uid) + " (pid " + std::to_string(peer.pid) +
                            ") was refused: uid " + std::to_string(*options_.required_uid) + " is required",
                        "uid");
            return;
        }
        PidFd pid_fd;
        try {
            pid_fd = open_peer_pidfd(socket.get());
        } catch (const SystemError& error) {
            log_line(LogLevel::warning, "server", std::string("the VMM has no pidfd: ") + error.what());
        }
        const int fd = socket.get();
        Connection connection{HandoverReceiver(std::move(socket)), std::move(pid_fd), peer.pid, 0};
        const std::shared_ptr<PageServer> self = shared_from_this();
        connection.deadline =
            runtime_.control().call_after(options_.handover_timeout_ns, [self, fd] { self->on_deadline(fd); });
        connections_.emplace(fd, std::move(connection));
        runtime_.control().watch(fd, EPOLLIN, [self, fd](std::uint32_t) { self->on_message(fd); });
    } catch (const Error& error) {
        add_failure(0, error.what(), "socket");
    }
}

void PageServer::on_message(int fd) {
    const auto found = connections_.find(fd);
    if (found == connections_.end()) {
        return;
    }
    switch (found->second.receiver.step()) {
        case HandoverStatus::need_more:
            return;
        case HandoverStatus::failed: {
            const HandoverFailure failure = found->second.receiver.failure();
            const pid_t pid = found->second.pid;
            drop_connection(fd);
            add_failure(0, "hand-over from pid " + std::to_string(pid) + ": " + failure.text, failure.field);
            return;
        }
        case HandoverStatus::complete:
            break;
    }
    runtime_.control().unwatch(fd);
    runtime_.control().cancel(found->second.deadline);
    Connection connection = std::move(found->second);
    connections_.erase(found);
    complete(std::move(connection));
}

void PageServer::on_deadline(int fd) {
    const auto found = connections_.find(fd);
    if (found == connections_.end()) {
        return;
    }
    const std::string text = "hand-over from pid " + std::to_string(found->second.pid) + ": nothing more came within " +
                             std::to_string(options_.handover_timeout_ns / 1'000'000) + " ms: " +
                             found->second.receiver.pending_problem();
    drop_connection(fd);
    add_failure(0, text, "handover_timeout");
}

void PageServer::drop_connection(int fd) {
    runtime_.control().unwatch(fd);
    if (const auto found = connections_.find(fd); found != connections_.end()) {
        runtime_.control().cancel(found->second.deadline);
        connections_.erase(found);
    }
    // A full house stops accepting; epoll is level-triggered, so the next wait sees who is still in the queue.
}

void PageServer::complete(Connection connection) {
    Waiting waiting{connection.receiver.take(), std::move(connection.pid_fd), "pid " + std::to_string(connection.pid)};
    if (!options_.source) {
        std::uint32_t number = 0;
        {
            const std::lock_guard lock(mutex_);
            number = next_waiting_++;
            waiting_.emplace(number, std::move(waiting));
        }
        push_event(SessionEventKind::needs_source, number);
        return;
    }
    try {
        make_session(std::move(waiting), options_.source);
    } catch (const Error& error) {
        add_failure(0, "hand-over from pid " + std::to_string(connection.pid) + ": " + error.what(), "regions");
    }
}

std::shared_ptr<PagerSession> PageServer::make_session(Waiting waiting, std::shared_ptr<PageSource> source) {
    std::vector<Region> regions =
        check_regions(options_.layout.assign(std::move(waiting.handover.regions)), source.get());
    SessionOptions options{.userfaultfd = std::move(waiting.handover.userfaultfd),
                           .regions = std::move(regions),
                           .source = std::move(source),
                           .config = options_.config,
                           .pid_fd = std::move(waiting.pid_fd),
                           .socket = std::move(waiting.handover.socket),
                           .label = std::move(waiting.label),
                           .prewarm = options_.prewarm,
                           .page_states = {}};
    const std::shared_ptr<PagerSession> session = PagerSession::create(std::move(options), this);
    add_session(session);
    session->start();
    return session;
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
                           .page_states = std::move(sorted_states)};
    const std::shared_ptr<PagerSession> session = PagerSession::create(std::move(options), this);
    add_session(session);
    session->start();
    return session;
}

void PageServer::provide_source(std::uint32_t session, std::shared_ptr<PageSource> source) {
    guard_.check("PageServer");
    std::optional<Waiting> waiting = take_waiting(session);
    if (!waiting) {
        throw ArgumentError("no session waits for a source under this number: " + std::to_string(session));
    }
    const std::string label = waiting->label;
    try {
        make_session(std::move(*waiting), std::move(source));
    } catch (const Error& error) {
        add_failure(0, "hand-over from " + label + ": " + error.what(), "regions");
    }
}

void PageServer::refuse_source(std::uint32_t session, const std::string& why) {
    guard_.check("PageServer");
    if (std::optional<Waiting> waiting = take_waiting(session)) {
        refuse_vm(*waiting, session, why);
    }
}

std::optional<PageServer::Waiting> PageServer::take_waiting(std::uint32_t session) {
    const std::lock_guard lock(mutex_);
    auto node = waiting_.extract(session);
    if (node.empty()) {
        return std::nullopt;
    }
    return std::move(node.mapped());
}

// A VM without its memory must not run on with zeros.
void PageServer::refuse_vm(Waiting& waiting, std::uint32_t session, const std::string& why) {
    const bool can_kill = waiting.pid_fd && waiting.pid_fd.pid() != ::getpid() &&
                          (options_.config.failure_policy == FailurePolicy::automatic ||
                           options_.config.failure_policy == FailurePolicy::kill);
    if (can_kill) {
        static_cast<void>(waiting.pid_fd.send_signal(SIGKILL));
    } else {
        for (const Region& region : waiting.handover.regions) {
            static_cast<void>(waiting.handover.userfaultfd.poison(region.host_address, region.size));
        }
    }
    add_failure(session, waiting.label + ": no page source for it: " + why + (can_kill ? "; it was killed" : ""),
                "source");
}

void PageServer::add_session(const std::shared_ptr<PagerSession>& session) {
    const std::lock_guard lock(mutex_);
    sessions_[session->id()] = session;
    ++session_count_;
}

void PageServer::add_failure(std::uint32_t session, const std::string& text, const std::string& field) {
    log_line(LogLevel::error, "server", text);
    {
        const std::lock_guard lock(mutex_);
        failures_.push_back({monotonic_ns(), session, text, field});
        if (failures_.size() > kKeptFailures) {
            failures_.pop_front();
        }
    }
    changed_.notify_all();
    push_event(SessionEventKind::failed, session);
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
    const std::shared_ptr<PageServer> self = weak_from_this().lock();
    try {
        {
            const std::lock_guard lock(mutex_);
            if (kind == SessionEventKind::closed) {
                if (const auto found = sessions_.find(session.id()); found != sessions_.end()) {
                    ended_.push_back(found->second);
                    sessions_.erase(found);
                    if (ended_.size() > kKeptEnded) {
                        ended_.pop_front();
                    }
                }
            } else if (kind == SessionEventKind::failed) {
                const std::vector<std::string> texts = session.failures();
                failures_.push_back({monotonic_ns(), session.id(), texts.empty() ? "failed" : texts.back(), "page"});
                if (failures_.size() > kKeptFailures) {
                    failures_.pop_front();
                }
            } else {
                ready_ = true;
            }
        }
        changed_.notify_all();
        push_event(kind, session.id());
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

std::vector<std::shared_ptr<PagerSession>> PageServer::sessions() const {
    guard_.check("PageServer");
    const std::lock_guard lock(mutex_);
    std::vector<std::shared_ptr<PagerSession>> sessions;
    for (const auto& [id, session] : sessions_) {
        sessions.push_back(session);
    }
    return sessions;
}

std::vector<std::shared_ptr<PagerSession>> PageServer::ended_sessions() const {
    guard_.check("PageServer");
    const std::lock_guard lock(mutex_);
    return {ended_.begin(), ended_.end()};
}

std::vector<ServerFailure> PageServer::failures() const {
    guard_.check("PageServer");
    const std::lock_guard lock(mutex_);
    return {failures_.begin(), failures_.end()};
}

std::uint64_t PageServer::session_count() const {
    guard_.check("PageServer");
    const std::lock_guard lock(mutex_);
    return session_count_;
}

std::string PageServer::socket_path() const { return options_.listener ? options_.listener->path() : std::string(); }

bool PageServer::listening() const {
    guard_.check("PageServer");
    const std::lock_guard lock(mutex_);
    return listening_;
}

bool PageServer::wait_ready(std::chrono::milliseconds timeout) {
    guard_.check("PageServer");
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, timeout, [this] { return ready_ || !listening_; });
}

bool PageServer::wait_ended(std::chrono::milliseconds timeout) {
    guard_.check("PageServer");
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, timeout, [this] {
        return sessions_.empty() && waiting_.empty() && (session_count_ > 0 || !listening_);
    });
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
