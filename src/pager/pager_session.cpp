#include "pager/pager_session.hpp"

#include <sys/epoll.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <shared_mutex>

#include "base/log.hpp"
#include "userfaultfd/liveness_checker.hpp"

namespace vmthaw {
namespace {

constexpr std::uint64_t kHangUpGraceNs = 200'000'000;

std::atomic<std::uint32_t> g_next_id{1};

FailurePolicy choose_policy(const PagerConfig& config, const PidFd& pid_fd) {
    const bool can_kill = pid_fd.is_another();
    switch (config.failure_policy) {
        case FailurePolicy::automatic:
            return can_kill ? FailurePolicy::kill : FailurePolicy::poison;
        case FailurePolicy::kill:
            if (!can_kill) {
                throw ArgumentError(
                    "failure_policy kill needs the pidfd of a VMM that is not this process; use poison");
            }
            return FailurePolicy::kill;
        case FailurePolicy::poison:
        case FailurePolicy::hang:
            break;
    }
    return config.failure_policy;
}

}  // namespace

std::shared_ptr<PagerSession> PagerSession::create(SessionOptions&& options, SessionObserver* observer) {
    check_config(options.config);
    const FailurePolicy policy = choose_policy(options.config, options.pid_fd);
    for (const Region& region : options.regions) {
        if (region.page_size != 4096 && region.page_size != 2U << 20U) {
            throw Error(describe(region) + ": userfaultfd serves pages of 4096 and 2097152 bytes only", "RegionError");
        }
    }
    PageTable table(options.regions);
    table.take_over(options.page_states);
    return std::shared_ptr<PagerSession>(new PagerSession(std::move(options), std::move(table), policy, observer));
}

PagerSession::PagerSession(SessionOptions options, PageTable table, FailurePolicy policy, SessionObserver* observer)
    : runtime_(Runtime::instance()),
      core_(std::move(options.userfaultfd), std::move(table), std::move(options.source), options.config,
            std::move(options.pid_fd)),
      handler_(core_),
      installer_(core_),
      label_(std::move(options.label)),
      policy_(policy),
      socket_(std::move(options.socket)),
      prewarm_(std::move(options.prewarm)),
      observer_(observer) {
    core_.id = g_next_id.fetch_add(1);
    first_regions_ = regions();
    if (options.working_set && !options.working_set->empty()) {
        const bool before = core_.config.working_set_mode == WorkingSetMode::before;
        replay_ = std::make_unique<WorkingSetReplay>(core_, std::move(options.working_set),
                                                     before ? FaultKind::prewarm : FaultKind::prefetch);
    }
    core_.uffd.set_nonblocking(true);
}

PagerSession::~PagerSession() {
    if (guard_.inherited()) {
        // The parent serves on with these very descriptors' twins; closing ours is harmless, waiting is not.
        return;
    }
}

void PagerSession::start() {
    const std::shared_ptr<PagerSession> self = shared_from_this();
    runtime_.control().post([self] { self->watch_peer(); });
    if (prewarm_.empty() && (!replay_ || core_.config.working_set_mode == WorkingSetMode::alongside)) {
        begin_serving();
    } else {
        runtime_.source_lane().submit({self, LaneWork::prewarm, {}});
    }
}

void PagerSession::begin_serving() {
    std::optional<std::uint64_t> drain_ns;
    const bool replays = replay_ && !replay_done_.load();
    {
        // Attached under the lock, or end() could come between, detach nobody, and close what the workers then look at.
        const std::lock_guard lock(mutex_);
        if (state_ != SessionState::preparing) {
            return;
        }
        state_ = SessionState::serving;
        drain_ns = drain_wanted_ns_;
        runtime_.attach(std::static_pointer_cast<WorkerClient>(shared_from_this()), core_.config.placement,
                        core_.config.cpu, core_.config.poll_interval_ns, replays ? Watch::one : Watch::usual);
    }
    if (replays) {
        runtime_.source_lane().submit({shared_from_this(), LaneWork::working_set, {}});
    }
    changed_.notify_all();
    notify(SessionEventKind::connected);
    if (drain_ns) {
        drain(*drain_ns);
    }
}

void PagerSession::run(LaneTask task, const FillContext& context) noexcept {
    try {
        switch (task.work) {
            case LaneWork::fill:
                execute(task.fill, context);
                return;
            case LaneWork::read:
                serve(context.handler);
                return;
            case LaneWork::prewarm:
                run_prewarm(context);
                return;
            case LaneWork::working_set:
                replay_some(context);
                return;
            case LaneWork::populate:
                populate_some(context);
                return;
            case LaneWork::give_up:
                give_up();
                return;
            case LaneWork::check:
                check_registration();
                return;
        }
    } catch (const std::exception& error) {
        add_failure(error.what());
    }
}

void PagerSession::adopt_child(MessageBatch::ForkedChild child) noexcept {
    try {
        runtime_.control().post(
            [parent = shared_from_this(), held = std::make_shared<MessageBatch::ForkedChild>(std::move(child))] {
                SessionOptions options{.userfaultfd = Userfaultfd::adopt(std::move(held->fd)),
                                       .regions = {},
                                       .source = parent->core_.source,
                                       .config = parent->core_.config,
                                       .pid_fd = {},
                                       .socket = {},
                                       .label = parent->label_ + "/fork",
                                       .prewarm = {},
                                       .page_states = {}};
                // Its pid is not told, so nobody can be killed.
                if (options.config.failure_policy == FailurePolicy::kill) {
                    options.config.failure_policy = FailurePolicy::poison;
                }
                const FailurePolicy policy = choose_policy(options.config, options.pid_fd);
                const std::shared_ptr<PagerSession> session(
                    new PagerSession(std::move(options), std::move(held->pages), policy, nullptr));
                const std::lock_guard lock(parent->observer_mutex_);
                if (parent->observer_ != nullptr) {
                    session->observer_ = parent->observer_;
                    parent->observer_->on_session_forked(*parent, session);
                }
                session->start();
            });
    } catch (const std::exception& error) {  // out of memory: whoever forked has no pages, and this VM goes on
        add_failure(std::string("the memory of a fork is not served: ") + error.what());
    }
}

void PagerSession::notify(SessionEventKind kind) noexcept {
    const std::lock_guard lock(observer_mutex_);
    if (observer_ != nullptr) {
        observer_->on_session_event(*this, kind);
    }
}

void PagerSession::set_observer(SessionObserver* observer) {
    const std::lock_guard lock(observer_mutex_);
    observer_ = observer;
}

SessionState PagerSession::state() const {
    const std::lock_guard lock(mutex_);
    return state_;
}

EndReason PagerSession::end_reason() const {
    const std::lock_guard lock(mutex_);
    return end_reason_;
}

std::vector<std::string> PagerSession::failures() const {
    const std::lock_guard lock(mutex_);
    return failures_;
}

bool PagerSession::wait_closed(std::chrono::milliseconds timeout) const {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, timeout, [this] { return state_ == SessionState::closed; });
}

std::vector<Region> PagerSession::regions() {
    const std::shared_lock gate(core_.gate);
    std::vector<Region> regions;
    for (const MappedRegion& mapped : core_.table.regions()) {
        regions.push_back(mapped.region);
    }
    return regions;
}

void PagerSession::watch_peer() {
    {
        const std::lock_guard lock(mutex_);
        if (pending_end_ != EndReason::none) {
            return;
        }
    }
    const std::shared_ptr<PagerSession> self = shared_from_this();
    if (core_.pid_fd) {
        runtime_.control().watch(core_.pid_fd.fd(), EPOLLIN,
                                 [self](std::uint32_t) { self->end(EndReason::vm_exited); });
    }
    if (socket_) {
        // Not EPOLLIN: what a VMM may say later is not for us, and unread bytes would wake us for ever.
        runtime_.control().watch(socket_.get(), EPOLLRDHUP, [self](std::uint32_t) { self->on_hang_up(); });
    }
}

void PagerSession::on_hang_up() {
    runtime_.control().unwatch(socket_.get());
    if (!core_.pid_fd) {
        if (LivenessChecker::for_adopted().check(core_.uffd) == Liveness::dead) {
            end(EndReason::vm_exited);
        }
        return;
    }
    // A dying process closes its socket before its pidfd tells: only one that still lives a moment later is odd.
    runtime_.control().call_after(kHangUpGraceNs, [self = shared_from_this()] {
        if (!self->core_.closing.load() && !self->core_.pid_fd.has_exited()) {
            log_line(LogLevel::warning, "pager",
                     self->label_ + ": the VMM closed its socket but lives; it is served on");
        }
    });
}

void PagerSession::end(EndReason reason) noexcept {
    {
        const std::lock_guard lock(mutex_);
        if (pending_end_ != EndReason::none) {
            return;
        }
        pending_end_ = reason == EndReason::vm_exited && kill_sent_.load() ? EndReason::killed : reason;
        if (state_ == SessionState::preparing) {
            state_ = SessionState::serving;
        }
    }
    {
        // From here on nobody reads a message or installs a page.
        const std::lock_guard gate(core_.gate);
        core_.closing.store(true);
    }
    runtime_.detach(this, [self = shared_from_this()] { self->on_detached(); });
}

void PagerSession::on_detached() noexcept {
    runtime_.control().post([self = shared_from_this()] {
        if (self->core_.pid_fd) {
            self->runtime_.control().unwatch(self->core_.pid_fd.fd());
        }
        if (self->socket_) {
            self->runtime_.control().unwatch(self->socket_.get());
            self->socket_.reset();
        }
        if (self->drain_timer_ != 0) {
            self->runtime_.control().cancel(self->drain_timer_);
        }
        self->release_resources();
        {
            const std::lock_guard lock(self->mutex_);
            self->state_ = SessionState::closed;
            self->end_reason_ = self->pending_end_;
        }
        self->changed_.notify_all();
        self->notify(SessionEventKind::closed);
    });
}

// A closed session may be looked at for long; its descriptor and page states need not stay.
void PagerSession::release_resources() noexcept {
    {
        const std::lock_guard lock(mutex_);
        if (pending_end_ == EndReason::detached) {
            return;  // the taker gets them
        }
    }
    const std::lock_guard gate(core_.gate);
    core_.uffd.release().reset();
    const std::lock_guard lock(mutex_);
    core_.pid_fd = PidFd(UniqueFd(), core_.pid_fd.pid());
    core_.table = PageTable(std::vector<Region>{});
}

void PagerSession::kill() {
    guard_.check("PagerSession");
    const std::lock_guard lock(mutex_);  // or the descriptor could be closed, and be another VM's, beside us
    if (!core_.pid_fd && pending_end_ != EndReason::none) {
        return;
    }
    if (!core_.pid_fd.is_another()) {
        throw StateError(label_ + ": there is no pidfd of a foreign VMM to kill; drain or detach instead");
    }
    kill_sent_.store(true);
    const int error_number = core_.pid_fd.send_signal(SIGKILL);
    if (error_number != 0 && error_number != ESRCH) {
        throw SystemError(error_number, "pidfd_send_signal(SIGKILL)");
    }
}

}  // namespace vmthaw
