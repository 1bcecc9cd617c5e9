#pragma once

#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "machine/freeze/basic_freeze_coordinator.hpp"

namespace vmthaw::model {

// Orderings that people wrote, each with one hazard.
enum class Hazard : std::uint8_t {
    clears_answers_late,     // the parked flags after the freeze flag: a fast parker's answer is erased
    reuses_answers,          // nobody clears them: the answer to the last freeze counts for this one
    looks_before_clearing,   // head: the flags, then immediate_exit
    keeps_a_late_kick,       // immediate_exit stays set through the park
    captures_without_drain,  // the registers are those before the pending instruction
    shares_the_thaw_event,   // one event for all, drained by the first to wake
};

// The same face as FreezeCoordinator, with flags instead of numbered requests.
template <typename Platform, Hazard kHazard>
class NaiveCoordinator {
public:
    using Vcpu = typename Platform::Vcpu;
    using Outcome = FreezeOutcome<typename Platform::Snapshot>;

    explicit NaiveCoordinator(const std::vector<Vcpu*>& vcpus) {
        for (Vcpu* const vcpu : vcpus) {
            slots_.push_back(std::make_unique<Slot>(*vcpu));
        }
    }
    void attach(std::size_t index) { slots_[index]->live.store(true); }
    void detach(std::size_t index) noexcept { slots_[index]->live.store(false); }
    static constexpr std::uint64_t kForever_ns = ~std::uint64_t{0};
    LoopHead head(std::size_t index, std::uint64_t /*patience_ns*/) noexcept {
        Slot& slot = *slots_[index];
        for (;;) {
            if (kHazard != Hazard::looks_before_clearing) {
                clear(slot);
            }
            if (killed_.load()) {
                return LoopHead::killed;
            }
            const bool frozen = freeze_.load();
            if (kHazard == Hazard::looks_before_clearing) {
                clear(slot);
            }
            if (!frozen) {
                return LoopHead::run;
            }
            park(slot);
            if (kHazard == Hazard::keeps_a_late_kick && !killed_.load() && !freeze_.load()) {
                return LoopHead::run;
            }
        }
    }
    void begin_freeze() {
        if (kHazard != Hazard::clears_answers_late && kHazard != Hazard::reuses_answers) {
            clear_answers();
        }
        freeze_.store(true);
        if (kHazard == Hazard::clears_answers_late) {
            clear_answers();
        }
        kick_all();
    }
    bool wait_parked(std::uint64_t /*timeout_ns*/) noexcept {
        while (!killed_.load() && !are_all_parked()) {
            Platform::wait({&parked_, &kill_, nullptr}, 0);
            parked_.drain();
        }
        return true;
    }
    void finish_freeze(Outcome& outcome) {
        outcome.status = FreezeStatus::frozen;
        outcome.snapshots.clear();
        for (const auto& slot : slots_) {
            outcome.snapshots.push_back(slot->live.load() ? slot->snapshot.read() : std::nullopt);
        }
    }
    void thaw() {
        freeze_.store(false);
        for (const auto& slot : slots_) {
            slot->thaw.signal();
            if (kHazard == Hazard::shares_the_thaw_event) {
                break;
            }
        }
    }
    void kill() noexcept {
        killed_.store(true);
        kick_all();
        kill_.signal();
    }
    [[nodiscard]] auto* parked_event() noexcept { return &parked_; }

private:
    struct Slot {
        explicit Slot(Vcpu& which) : vcpu(which) {}
        Vcpu& vcpu;
        typename Platform::template Atomic<bool> live{false};
        typename Platform::template Atomic<bool> parked{false};
        typename Platform::template Cell<std::optional<typename Platform::Snapshot>> snapshot;
        typename Platform::Event thaw;
    };
    static void clear(Slot& slot) noexcept {
        slot.vcpu.set_immediate_exit(false);
        Platform::fence();
    }
    void park(Slot& slot) noexcept {
        if (kHazard != Hazard::captures_without_drain) {
            (void)slot.vcpu.drain();
        }
        slot.snapshot.write(slot.vcpu.capture());
        slot.parked.store(true);
        parked_.signal();
        auto& thaw = kHazard == Hazard::shares_the_thaw_event ? slots_.front()->thaw : slot.thaw;
        while (freeze_.load() && !killed_.load()) {
            Platform::wait({&thaw, &kill_, nullptr}, 0);
            thaw.drain();
        }
        slot.parked.store(false);
    }
    void clear_answers() noexcept {
        for (const auto& slot : slots_) {
            slot->parked.store(false);
        }
    }
    void kick_all() noexcept {
        for (const auto& slot : slots_) {
            slot->vcpu.set_immediate_exit(true);
        }
        Platform::fence();
        for (const auto& slot : slots_) {
            Platform::kick(slot->vcpu);
        }
    }
    [[nodiscard]] bool are_all_parked() const noexcept {
        for (const auto& slot : slots_) {
            if (slot->live.load() && !slot->parked.load()) {
                return false;
            }
        }
        return true;
    }

    std::vector<std::unique_ptr<Slot>> slots_;
    typename Platform::template Atomic<bool> freeze_{false};
    typename Platform::template Atomic<bool> killed_{false};
    typename Platform::Event parked_;
    typename Platform::Event kill_;
};

}  // namespace vmthaw::model
