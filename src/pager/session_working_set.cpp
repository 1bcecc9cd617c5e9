#include <algorithm>
#include <chrono>
#include <thread>

#include "base/log.hpp"
#include "pager/pager_session.hpp"

// How PagerSession replays its working set: alongside the guest or before it, on a source thread.
namespace vmthaw {
namespace {

constexpr int kBatchesPerTurn = 64;
constexpr std::uint64_t kFirstWaitNs = 50'000;
constexpr std::uint64_t kLongestWaitNs = 2'000'000;
// Before serving nobody reads the event that the kernel waits for: after 10 ms the rest comes alongside.
constexpr int kPatience = 100;

}  // namespace

void PagerSession::replay_some(const FillContext& context) noexcept {
    for (int i = 0; i < kBatchesPerTurn; ++i) {
        switch (replay_->step(context)) {
            case WorkingSetReplay::Progress::more:
                replay_waits_ = 0;
                continue;
            case WorkingSetReplay::Progress::wait:
                runtime_.source_lane().submit(
                    {shared_from_this(), LaneWork::working_set, {}},
                    std::min(kFirstWaitNs << std::min<std::uint16_t>(replay_waits_++, 8), kLongestWaitNs));
                return;
            case WorkingSetReplay::Progress::finished:
                end_replay();
                runtime_.widen(this);
                return;
            case WorkingSetReplay::Progress::gone:
                end_replay();
                end(EndReason::vm_exited);
                return;
        }
    }
    runtime_.source_lane().submit({shared_from_this(), LaneWork::working_set, {}});
}

void PagerSession::replay_before(const FillContext& context) noexcept {
    int waits = 0;
    while (waits < kPatience) {
        switch (replay_->step(context)) {
            case WorkingSetReplay::Progress::more:
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
