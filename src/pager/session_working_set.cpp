#include <algorithm>
#include <chrono>
#include <shared_mutex>
#include <thread>

#include "base/clock.hpp"
#include "base/log.hpp"
#include "pager/pager_session.hpp"

// What PagerSession installs before anybody asks: pre-warmed pages and the working set, on a source thread.
namespace vmthaw {
namespace {

constexpr int kBatchesPerTurn = 64;
constexpr std::uint64_t kFirstWaitNs = 50'000;
constexpr std::uint64_t kLongestReplayWaitNs = 2'000'000;
// Before serving nobody reads the event that the kernel waits for: after 10 ms the rest comes alongside.
constexpr int kPatience = 100;

}  // namespace

void PagerSession::run_prewarm(const FillContext& context) {
    for (const std::uint64_t guest_address : prewarm_) {
        FillTask task;
        {
            const std::shared_lock gate(core_.gate);
            const MappedRegion* mapped = core_.table.find_guest(guest_address);
            if (mapped == nullptr) {
                add_failure("pre-warm: guest address " + hex(guest_address) + " is in no region");
                continue;
            }
            const std::uint64_t page = (guest_address - mapped->region.guest_address) / mapped->region.page_size;
            if (!mapped->change(page, PageState::absent, PageState::filling)) {
                continue;
            }
            task.page_size = mapped->region.page_size;
            task.demand_address = mapped->host_of(page);
        }
        task.kind = FaultKind::prewarm;
        task.demanded = true;
        task.t_fault_ns = monotonic_ns();
        bump(core_.counters.faults);
        prewarm_page(task, context);
    }
    if (replay_ && core_.config.working_set_mode == WorkingSetMode::before) {
        replay_before(context);
    }
    begin_serving();
}

// Every page is there before the first fault is read, so this waits, and tries again, where a fault would be parked.
void PagerSession::prewarm_page(FillTask& task, const FillContext& context) noexcept {
    while (!core_.closing.load()) {
        FillFailure failure;
        switch (installer_.install(task, context, failure)) {
            case FillResult::done:
                return;
            case FillResult::again:
            case FillResult::need_source:
                std::this_thread::sleep_for(std::chrono::microseconds(100));
                break;
            case FillResult::source_failed:
                if (task.tries >= core_.config.retries) {
                    retry_or_fail(task, failure);  // no tries are left: fails it
                    return;
                }
                bump(core_.counters.retried);
                std::this_thread::sleep_for(std::chrono::nanoseconds(retry_delay_ns(task.tries++)));
                break;
            case FillResult::failed:
            case FillResult::gone:
                execute(task, context);
                return;
        }
    }
}

// While all bytes are at hand, this thread reads the messages too, between batches: no worker is woken for a fault,
// takes the gate from the replay and has it woken again, which together took half the time of a replay.
void PagerSession::replay_some(const FillContext& context) noexcept {
    const auto leave_messages_to = [this](Watch watch) { runtime_.watch(this, watch); };
    bool reads_messages = !replay_has_waited_ && replay_waits_ == 0;
    leave_messages_to(reads_messages ? Watch::nobody : Watch::one);
    for (int i = 0; i < kBatchesPerTurn; ++i) {
        switch (replay_->step(context)) {
            case WorkingSetReplay::Progress::more:
                replay_waits_ = 0;
                if (reads_messages) {
                    serve_messages(context.handler, false);  // or a guest that is quick takes all turns
                }
                continue;
            case WorkingSetReplay::Progress::source:
                replay_has_waited_ = true;
                reads_messages = false;
                leave_messages_to(Watch::one);
                continue;
            case WorkingSetReplay::Progress::wait:
                leave_messages_to(Watch::one);
                runtime_.source_lane().submit(
                    {shared_from_this(), LaneWork::working_set, {}},
                    std::min(kFirstWaitNs << std::min<std::uint16_t>(replay_waits_++, 8), kLongestReplayWaitNs));
                return;
            case WorkingSetReplay::Progress::finished:
                end_replay();
                leave_messages_to(Watch::usual);
                return;
            case WorkingSetReplay::Progress::gone:
                end_replay();
                end(EndReason::vm_exited);
                return;
        }
    }
    leave_messages_to(Watch::one);  // this may be long in coming to its next turn
    runtime_.source_lane().submit({shared_from_this(), LaneWork::working_set, {}});
}

void PagerSession::replay_before(const FillContext& context) noexcept {
    int waits = 0;
    while (waits < kPatience) {
        switch (replay_->step(context)) {
            case WorkingSetReplay::Progress::more:
            case WorkingSetReplay::Progress::source:
                break;
            case WorkingSetReplay::Progress::wait:
                ++waits;
                std::this_thread::sleep_for(std::chrono::microseconds(100));
                break;
            case WorkingSetReplay::Progress::finished:
                end_replay();
                return;
            case WorkingSetReplay::Progress::gone:
                end_replay();
                end(EndReason::vm_exited);
                return;
        }
    }
}

// What is missing is no failure yet: the fault that needs it will be one, or not.
void PagerSession::end_replay() noexcept {
    replay_done_.store(true);
    try {
        if (const std::string complaint = replay_->complaint(); !complaint.empty()) {
            log_line(LogLevel::warning, "pager", label_ + ": " + complaint);
        }
    } catch (const std::exception& error) {
        log_line(LogLevel::warning, "pager", error.what());
    }
}

}  // namespace vmthaw
