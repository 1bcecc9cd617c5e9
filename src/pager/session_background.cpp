#include <unistd.h>

#include <algorithm>
#include <shared_mutex>
#include <thread>

#include "base/clock.hpp"
#include "base/log.hpp"
#include "pager/pager_session.hpp"
#include "pager/registration_check.hpp"
#include "userfaultfd/liveness_checker.hpp"

// What PagerSession does beside answering faults: fill in the background, drain, hand over, check.
namespace vmthaw {
namespace {

constexpr std::uint64_t kClaimBytes = 256U << 10U;
constexpr int kClaimsPerTurn = 16;
constexpr std::uint64_t kSecondLookNs = 1'000'000;

bool is_missing(PageState state) noexcept { return state == PageState::absent || state == PageState::filling; }

}  // namespace

std::uint64_t PagerSession::missing_pages() {
    std::uint64_t missing = 0;
    const std::shared_lock gate(core_.gate);
    for (const MappedRegion& mapped : core_.table.regions()) {
        for (std::uint64_t page = 0; page < mapped.region.pages(); ++page) {
            if (!is_missing(mapped.state(page))) {
                continue;
            }
            const std::uint64_t page_size = mapped.region.page_size;
            const Extent extent = core_.source->extent_at(mapped.offset_of(page), page_size);
            missing += extent.kind == ExtentKind::zero && extent.size >= page_size ? 0U : 1U;
        }
    }
    return missing;
}

void PagerSession::drain(std::uint64_t timeout_ns) {
    guard_.check("PagerSession");
    bool already = false;
    if (replay_) {
        replay_->cancel();
    }
    {
        const std::lock_guard lock(mutex_);
        if (state_ == SessionState::preparing) {
            drain_wanted_ns_ = timeout_ns;  // begin_serving() comes back here
            return;
        }
        if (state_ != SessionState::serving && state_ != SessionState::draining) {
            return;
        }
        already = state_ == SessionState::draining;  // then only the time-out is new
        state_ = SessionState::draining;
    }
    const std::shared_ptr<PagerSession> self = shared_from_this();
    runtime_.control().post([self, timeout_ns] {
        if (self->core_.closing.load()) {
            return;
        }
        if (self->drain_timer_ != 0) {
            self->runtime_.control().cancel(self->drain_timer_);
        }
        self->drain_timer_ = self->runtime_.control().call_after(timeout_ns, [self] {
            self->drain_timer_ = 0;
            // Not the source lane: a source that hangs may hold all of our share there.
            self->runtime_.retry_lane().submit({self, LaneWork::give_up, {}});
        });
    });
    if (!already) {
        runtime_.source_lane().submit({self, LaneWork::populate, {}});
    }
}

// Claims the next run of absent pages that the source has bytes for; holes need no page: unregistered, they are zeros.
bool PagerSession::claim_next(FillTask& task) noexcept {
    const std::shared_lock gate(core_.gate);
    const std::vector<MappedRegion>& regions = core_.table.regions();
    for (; cursor_region_ < regions.size(); ++cursor_region_, cursor_page_ = 0) {
        const MappedRegion& mapped = regions[cursor_region_];
        const std::uint64_t page_size = mapped.region.page_size;
        while (cursor_page_ < mapped.region.pages()) {
            const std::uint64_t first = cursor_page_;
            const std::uint64_t offset = mapped.offset_of(first);
            const Extent extent = core_.source->extent_at(offset, mapped.region.size - first * page_size);
            if (extent.kind == ExtentKind::zero && extent.size >= page_size) {
                cursor_page_ += extent.size / page_size;
                continue;
            }
            ++cursor_page_;
            if (!mapped.change(first, PageState::absent, PageState::filling)) {
                continue;
            }
            const std::uint64_t limit =
                std::min(mapped.region.pages(), first + std::max<std::uint64_t>(1, kClaimBytes / page_size));
            while (cursor_page_ < limit && mapped.change(cursor_page_, PageState::absent, PageState::filling)) {
                ++cursor_page_;
            }
            task.page_size = page_size;
            task.host_address = mapped.host_of(first);
            task.pages = cursor_page_ - first;
            task.kind = FaultKind::prefetch;
            task.t_fault_ns = monotonic_ns();
            return true;
        }
    }
    return false;
}

void PagerSession::populate_some(const FillContext& context) noexcept {
    for (int i = 0; i < kClaimsPerTurn; ++i) {
        if (core_.closing.load()) {
            return;
        }
        FillTask task;
        if (!claim_next(task)) {
            cursor_region_ = 0;
            cursor_page_ = 0;
            const bool is_complete = missing_pages() == 0;
            if (given_up_.load()) {
                return;  // looked at last: what it poisons counts as missing no more
            }
            if (is_complete) {
                finish_drain();
            } else {
                // Somebody else's fill is under way, or one failed: look again.
                runtime_.source_lane().submit({shared_from_this(), LaneWork::populate, {}}, kSecondLookNs);
            }
            return;
        }
        execute(task, context);
    }
    runtime_.source_lane().submit({shared_from_this(), LaneWork::populate, {}});
}

// Closing is not enough: a VMM that keeps its own descriptor would hang at the first page it never touched.
void PagerSession::unregister_all() noexcept {
    const std::shared_lock gate(core_.gate);
    for (const MappedRegion& mapped : core_.table.regions()) {
        try {
            core_.uffd.unregister_range(mapped.region.host_address, mapped.region.size);
        } catch (const SystemError& error) {
            const int reason = error.errno_value();
            if (reason != ENOMEM && reason != ESRCH && reason != EINVAL) {  // not simply gone
                log_line(LogLevel::error, "pager", error.what());
            }
        }
    }
}

// A thread of the VMM that was in madvise() while its range was unregistered still waits for us to read its event, for
// ever if the VMM keeps a descriptor. The kernel refuses to fill anything (EAGAIN) as long as there is one.
void PagerSession::settle_events() noexcept {
    constexpr int kLongestMs = 2000;
    // The kernel wakes sleepers before it takes the registration away: one that faults again in between sleeps on.
    wake_everybody();
    MessageBatch batch;
    for (int i = 0; i < kLongestMs; ++i) {
        do {
            handler_.read(batch);
            for (MessageBatch::ForkedChild& child : batch.forked) {
                adopt_child(std::move(child));
            }
            batch.forked.clear();
        } while (batch.message_count > 0);
        {
            const std::shared_lock gate(core_.gate);
            if (core_.closing.load() || core_.table.regions().empty()) {
                return;
            }
            const Region& region = core_.table.regions().front().region;
            if (core_.uffd.zero(region.host_address, 4096).status != FillStatus::again) {
                return;  // refused for another reason: it is not registered
            }
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
}

void PagerSession::finish_drain() noexcept {
    unregister_all();
    settle_events();
    end(EndReason::drained);
}

void PagerSession::give_up() {
    if (core_.closing.load()) {
        return;
    }
    given_up_.store(true);
    add_failure("draining took longer than its time-out; the failure policy is applied to " +
                std::to_string(missing_pages()) + " missing pages");
    switch (policy_) {
        case FailurePolicy::kill:
            kill_vm();
            return;  // the pidfd tells when it is over
        case FailurePolicy::automatic:
        case FailurePolicy::poison:
            while (!core_.closing.load() && !poison_missing()) {
                std::this_thread::sleep_for(std::chrono::milliseconds(1));
            }
            unregister_all();
            settle_events();
            break;
        case FailurePolicy::hang: {
            // Asked for: whoever touches a missing page sleeps as long as this process lives. Closing gives zeros.
            const std::shared_lock gate(core_.gate);  // or detach() could take the descriptor away beside us
            if (!core_.closing.load()) {
                static_cast<void>(core_.uffd.try_clone().release().release());
            }
            break;
        }
    }
    end(EndReason::failed);
}

// False: an event was pending, so that some pages are left.
bool PagerSession::poison_missing() noexcept {
    const std::shared_lock gate(core_.gate);
    for (const MappedRegion& mapped : core_.table.regions()) {
        for (std::uint64_t page = 0; page < mapped.region.pages(); ++page) {
            if (is_missing(mapped.state(page))) {
                if (!poison_locked(mapped.host_of(page), mapped.region.page_size)) {
                    return false;
                }
                mapped.set(page, PageState::failed);
            }
        }
    }
    return true;
}

DetachedSession PagerSession::detach() {
    guard_.check("PagerSession");
    end(EndReason::detached);
    while (!wait_closed(std::chrono::milliseconds(100))) {
    }
    if (end_reason() != EndReason::detached) {
        throw StateError(label_ + ": has ended already, there is nothing to detach");
    }
    while (in_flight_.load() > 0) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));  // parked fills find it closing when they are due
    }
    DetachedSession detached;
    wake_everybody();                        // faults that were read but not answered come again, for the taker
    const std::lock_guard gate(core_.gate);  // a background fill may only just find out
    for (const MappedRegion& mapped : core_.table.regions()) {
        detached.regions.push_back(mapped.region);
        std::vector<std::uint8_t>& states = detached.page_states.emplace_back();
        states.reserve(mapped.region.pages());
        for (std::uint64_t page = 0; page < mapped.region.pages(); ++page) {
            mapped.change(page, PageState::filling, PageState::absent);
            mapped.change(page, PageState::zeroing, PageState::removed);
            states.push_back(static_cast<std::uint8_t>(mapped.state(page)));
        }
    }
    detached.fd = core_.uffd.release();
    return detached;
}

int PagerSession::faulting_cpu(bool alone) noexcept {
    constexpr std::uint64_t kHardlyAny = 32;
    const std::uint64_t faults = core_.counters.faults.load(std::memory_order_relaxed);
    if (faults - followed_faults_ < kHardlyAny) {
        return -1;
    }
    followed_faults_ = faults;
    const pid_t pid = process();
    const auto tid = static_cast<pid_t>(core_.last_tid.load(std::memory_order_relaxed));
    const int cpu = pid > 0 && tid > 0 ? ToucherFinder::find(pid, tid) : -1;
    return cpu < 0 && pid > 0 && alone ? toucher_finder_.search(pid) : cpu;
}

void PagerSession::check() noexcept { runtime_.source_lane().submit({shared_from_this(), LaneWork::check, {}}); }

void PagerSession::check_registration() noexcept {
    const std::unique_lock only(check_mutex_, std::try_to_lock);
    const std::uint64_t start_ns = monotonic_ns();
    if (core_.closing.load() || !only || !check_pace_.is_due(start_ns)) {
        return;
    }
    const auto is_dead = [this] {
        const std::shared_lock gate(core_.gate);
        return !core_.closing.load() && LivenessChecker::for_adopted().check(core_.uffd) == Liveness::dead;
    };
    if (!core_.pid_fd && is_dead()) {
        end(EndReason::vm_exited);
        return;
    }
    const std::vector<UnregisteredRange> all_lost = find_unregistered(core_.pid_fd.pid(), regions());
    check_pace_.looked(start_ns, monotonic_ns());
    for (const UnregisteredRange& lost : all_lost) {
        try {
            const std::lock_guard gate(core_.gate);
            if (core_.closing.load() || state() != SessionState::serving) {
                return;  // draining unregisters on purpose
            }
            core_.table.remove(lost.start, lost.end);  // what was mapped there is new: zeros, never guessed
            core_.uffd.register_range(lost.start, lost.end - lost.start, kRegisterMissing);
            bump(core_.counters.reinstalls);
        } catch (const SystemError& error) {
            add_failure(std::string("a lost registration could not be mended: ") + error.what());
            continue;
        }
        add_failure("the registration of " + hex(lost.start) + " to " + hex(lost.end) +
                    " was lost (the VMM mapped anew over it); it is registered again, its content is zeros");
    }
}

}  // namespace vmthaw
