#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.hpp"

namespace vmthaw {

enum class FreezeStatus : std::uint8_t { frozen, timed_out, killed };

// What a vCPU's thread does next: `parked` means that the guest still must not run, and that head() wants to be called
// again.
enum class LoopHead : std::uint8_t { run, parked, killed };

template <typename Snapshot>
struct FreezeOutcome {
    FreezeStatus status = FreezeStatus::timed_out;
    // By vCPU, only when frozen: nothing for one without a thread, or whose registers could not be read.
    std::vector<std::optional<Snapshot>> snapshots;
    std::vector<std::size_t> not_parked;  // by number, only after a time-out
};

// An event that is missing makes its waiters look again every 10 ms instead.
struct FreezeEvents {
    bool parked = true;
    bool thaw = true;
    bool kill = true;
};

// Stops all vCPUs between two instructions, and lets them go on. The protocol alone: atomics, events, clock, kick and
// the vCPU itself are `Platform`'s, so that a test explores the interleavings of this very code.
//
// Every request has a number: odd while a freeze is wanted, even otherwise. A vCPU answers with the number of the
// request that it parked for, so no flag is ever cleared on somebody's behalf and no old answer counts.
//
// vCPU threads: attach, then head() before every KVM_RUN (after the last exit is answered), detach. Anybody: freeze,
// thaw, kill. freeze and thaw exclude each other by StateError, never by waiting. Nothing here allocates on a vCPU's
// thread.
template <typename Platform>
class BasicFreezeCoordinator {
public:
    using Vcpu = typename Platform::Vcpu;
    using Snapshot = typename Platform::Snapshot;
    using Outcome = FreezeOutcome<Snapshot>;

    static constexpr std::uint64_t kLookAgain_ns = 100'000'000;
    static constexpr std::uint64_t kLookAgainWithoutEvent_ns = 10'000'000;
    static constexpr std::uint64_t kForever_ns = ~std::uint64_t{0};

    explicit BasicFreezeCoordinator(const std::vector<Vcpu*>& vcpus, FreezeEvents events = {}) {
        for (Vcpu* const vcpu : vcpus) {
            slots_.push_back(std::make_unique<Slot>(*vcpu, events.thaw));
        }
        if (events.parked) {
            parked_.emplace();
        }
        if (events.kill) {
            kill_.emplace();
        }
    }

    [[nodiscard]] std::size_t vcpu_count() const noexcept { return slots_.size(); }
    [[nodiscard]] typename Platform::Event* parked_event() noexcept { return parked_ ? &*parked_ : nullptr; }
    [[nodiscard]] bool is_killed() const noexcept { return killed_.load(); }
    // From when freeze() said so to thaw(), or the kill: no vCPU runs the guest. (One may look parked after the thaw.)
    [[nodiscard]] bool is_frozen() const noexcept { return state_.load() == State::frozen && !killed_.load(); }
    [[nodiscard]] bool is_parked(std::size_t index) const noexcept { return slots_[index]->answer.load() != 0; }

    // Goes up with every freeze that is wanted, and again with its end: a thread for which it is the same after two
    // head()s that said `run` was not parked in the second.
    [[nodiscard]] std::uint64_t request() const noexcept { return request_.load(); }

    // The calling thread is the vCPU's until detach(). It must not run the guest before head() said so.
    void attach(std::size_t index) {
        if (slots_[index]->live.exchange(true)) {
            throw StateError("vCPU " + std::to_string(index) + " has a thread already");
        }
        try {
            Platform::bind(slots_[index]->vcpu);
        } catch (...) {
            slots_[index]->live.store(false);
            throw;
        }
    }

    void detach(std::size_t index) noexcept {
        Slot& slot = *slots_[index];
        Platform::unbind(slot.vcpu);
        slot.answer.store(0);  // a thread that lost its patience may leave while it is parked
        slot.live.store(false);
        left_.signal();
    }

    // Parks while a freeze is wanted. After `run` one KVM_RUN may follow; one that comes back with EINTR, also by a
    // kick that is no longer meant, is followed by the next head(). With a `patience_ns`, a thread that has other
    // things to look at comes back after at most one wait of that length, still parked.
    [[nodiscard]] LoopHead head(std::size_t index, std::uint64_t patience_ns = kForever_ns) noexcept {
        Slot& slot = *slots_[index];
        for (;;) {
            if (slot.answer.load() == 0) {
                // Clear, then look, then run: what is asked for after the look has set it again. The fence keeps the
                // look from passing the clearing, which would undo a kick that was not seen.
                if (slot.vcpu.immediate_exit()) {
                    slot.vcpu.set_immediate_exit(false);
                    Platform::fence();
                }
                if (killed_.load()) {
                    return LoopHead::killed;
                }
                const std::uint64_t request = request_.load();
                if (!is_freeze(request)) {
                    return LoopHead::run;
                }
                park(slot, index, request);
            }
            if (!wait_for_thaw(slot, patience_ns)) {
                return LoopHead::parked;
            }
            slot.answer.store(0);
        }
    }

    // A freeze in steps, for callers that must look at other things meanwhile: begin, wait until true or out of
    // patience, finish always. Throws StateError when there is a freeze already.
    void begin_freeze() {
        State expected = State::thawed;
        if (!state_.compare_exchange(expected, State::freezing)) {
            throw StateError(expected == State::freezing ? "another thread is freezing these vCPUs"
                                                         : "the vCPUs are frozen; thaw() them first");
        }
        have_all_parked_ = false;
        request_.store(request_.load() + 1);
        kick_all();
    }

    // True when all have parked, or at a kill.
    [[nodiscard]] bool wait_parked(std::uint64_t timeout_ns) noexcept {
        const std::uint64_t now_ns = Platform::now_ns();
        const std::uint64_t deadline_ns = timeout_ns < ~now_ns ? now_ns + timeout_ns : ~std::uint64_t{0};
        const std::uint64_t request = request_.load();
        for (;;) {
            if (killed_.load()) {
                return true;
            }
            if (are_all_parked(request)) {
                have_all_parked_ = true;
                return true;
            }
            const std::uint64_t now = Platform::now_ns();
            if (now >= deadline_ns) {
                return false;
            }
            const std::uint64_t slice_ns = parked_ && kill_ ? kLookAgain_ns : kLookAgainWithoutEvent_ns;
            Platform::wait({pointer(parked_), &left_, pointer(kill_)}, std::min(slice_ns, deadline_ns - now));
            if (parked_) {
                parked_->drain();
            }
            left_.drain();
        }
    }

    // Takes the snapshots when all have parked. Otherwise nothing is read, and the guest runs on.
    void finish_freeze(Outcome& outcome) {
        const std::uint64_t request = request_.load();
        outcome.snapshots.clear();
        outcome.not_parked.clear();
        // Who attached after all had parked does not run the guest either.
        for (std::size_t index = 0; !have_all_parked_ && index < slots_.size(); ++index) {
            if (!has_parked(*slots_[index], request)) {
                outcome.not_parked.push_back(index);
            }
        }
        if (killed_.load()) {
            outcome.status = FreezeStatus::killed;
            outcome.not_parked.clear();
        } else {
            outcome.status = outcome.not_parked.empty() ? FreezeStatus::frozen : FreezeStatus::timed_out;
        }
        if (outcome.status != FreezeStatus::frozen) {
            let_go();
            state_.store(State::thawed);
            return;
        }
        for (const auto& slot : slots_) {
            // Of those that answered: one that attached just now may be writing its own.
            outcome.snapshots.push_back(slot->answer.load() == request ? slot->snapshot.read() : std::nullopt);
        }
        state_.store(State::frozen);
    }

    [[nodiscard]] Outcome freeze(std::uint64_t timeout_ns) {
        Outcome outcome;
        begin_freeze();
        (void)wait_parked(timeout_ns);
        finish_freeze(outcome);
        return outcome;
    }

    void thaw() {
        State expected = State::frozen;
        if (!state_.compare_exchange(expected, State::freezing)) {
            throw StateError("the vCPUs are not frozen");
        }
        let_go();
        state_.store(State::thawed);
    }

    // Brings every vCPU that runs to its next head(), where it sees what was written before this. Any thread.
    void nudge() noexcept { kick_all(); }

    // Ends every wait and every run, for good. Any thread, also a vCPU's own. Only the first call does anything.
    void kill() noexcept {
        if (killed_.exchange(true)) {
            return;
        }
        kick_all();
        if (kill_) {
            kill_->signal();
        }
    }

private:
    enum class State : std::uint8_t { thawed, freezing, frozen };

    struct Slot {
        Slot(Vcpu& which, bool has_thaw_event) : vcpu(which) {
            if (has_thaw_event) {
                thaw.emplace();
            }
        }
        Vcpu& vcpu;
        typename Platform::template Atomic<bool> live{false};
        // The request that it is parked for, 0 while it is not.
        typename Platform::template Atomic<std::uint64_t> answer{0};
        typename Platform::template Cell<std::optional<Snapshot>> snapshot;
        // The request that the snapshot was taken for; its thread's alone.
        typename Platform::template Atomic<std::uint64_t> captured_for{0};
        // Its own, which nobody else drains: of a shared one the first to wake takes the edge away from the others.
        std::optional<typename Platform::Event> thaw;
    };

    [[nodiscard]] static bool is_freeze(std::uint64_t request) noexcept { return (request & 1U) != 0; }
    [[nodiscard]] static typename Platform::Event* pointer(std::optional<typename Platform::Event>& event) noexcept {
        return event ? &*event : nullptr;
    }

    void park(Slot& slot, std::size_t index, std::uint64_t request) noexcept {
        // Once for each request: one that left while it was parked and is back finds its snapshot there, and the
        // coordinator may be reading it.
        if (slot.captured_for.load() != request) {
            if (const int error = slot.vcpu.drain(); error != 0) {
                Platform::warn_of_drain(index, error);
            }
            slot.snapshot.write(slot.vcpu.capture());
            slot.captured_for.store(request);
        }
        slot.answer.store(request);
        if (parked_) {
            parked_->signal();
        }
    }

    // False: patience is over, and the freeze is not.
    [[nodiscard]] bool wait_for_thaw(Slot& slot, std::uint64_t patience_ns) noexcept {
        const std::uint64_t request = slot.answer.load();
        const auto is_over = [&] { return request_.load() != request || killed_.load(); };
        const std::uint64_t slice_ns = slot.thaw && kill_ ? kLookAgain_ns : kLookAgainWithoutEvent_ns;
        while (!is_over()) {
            Platform::wait({pointer(slot.thaw), pointer(kill_), nullptr}, std::min(slice_ns, patience_ns));
            if (slot.thaw) {
                slot.thaw->drain();
            }
            if (patience_ns != kForever_ns) {
                return is_over();
            }
        }
        return true;
    }

    void kick_all() noexcept {
        for (const auto& slot : slots_) {
            if (slot->live.load()) {
                slot->vcpu.set_immediate_exit(true);
            }
        }
        Platform::fence();
        for (const auto& slot : slots_) {
            if (slot->live.load()) {
                Platform::kick(slot->vcpu);
            }
        }
    }

    void let_go() noexcept {
        request_.store(request_.load() + 1);
        for (const auto& slot : slots_) {
            if (auto* const thaw = pointer(slot->thaw); thaw != nullptr) {
                thaw->signal();
            }
        }
    }

    // One that attaches after this look finds the request at its first head().
    [[nodiscard]] static bool has_parked(const Slot& slot, std::uint64_t request) noexcept {
        return !slot.live.load() || slot.answer.load() == request;
    }
    [[nodiscard]] bool are_all_parked(std::uint64_t request) const noexcept {
        return std::all_of(slots_.begin(), slots_.end(), [&](const auto& slot) { return has_parked(*slot, request); });
    }

    std::vector<std::unique_ptr<Slot>> slots_;
    typename Platform::template Atomic<std::uint64_t> request_{0};
    typename Platform::template Atomic<bool> killed_{false};
    typename Platform::template Atomic<State> state_{State::thawed};
    bool have_all_parked_ = false;  // the thread's that freezes
    std::optional<typename Platform::Event> parked_;
    std::optional<typename Platform::Event> kill_;  // never drained: it wakes all
    typename Platform::Event left_;                 // a vCPU's thread has gone
};

}  // namespace vmthaw
