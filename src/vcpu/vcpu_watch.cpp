#include "vcpu/vcpu_watch.hpp"

#include <cerrno>

namespace vmthaw {
namespace {

constexpr unsigned bit_of(std::size_t slot) noexcept { return 1U << slot; }

}  // namespace

DebugSetup VcpuWatch::setup() const noexcept {
    DebugSetup setup;
    if (disarmed_) {
        return setup;
    }
    for (std::size_t slot = 0; slot < kWatchSlots; ++slot) {
        setup.targets.at(slot) = requests_.at(slot).target;
    }
    setup.stepped_over = step_mask_;
    setup.single_step = single_step_;
    return setup;
}

std::optional<DebugSetup> VcpuWatch::prepare(const WatchRequests& requests, bool single_step) noexcept {
    if (requests != requests_ || single_step != single_step_) {
        for (std::size_t slot = 0; slot < kWatchSlots; ++slot) {
            if (requests.at(slot) != requests_.at(slot)) {
                step_mask_ &= ~bit_of(slot);  // the step over was for the old request
            }
        }
        requests_ = requests;
        single_step_ = single_step;
        disarmed_ = false;
        failures_ = 0;
        stray_steps_ = 0;
    }
    tried_ = setup();
    if (tried_ == armed_ || has_struck_out()) {
        return std::nullopt;
    }
    return tried_;
}

void VcpuWatch::note_result(int error) noexcept {
    if (error == 0) {
        armed_ = tried_;
        failures_ = 0;
    } else if (error != EINTR) {
        ++failures_;
    }
}

unsigned VcpuWatch::armed() const noexcept {
    unsigned armed = 0;
    for (std::size_t slot = 0; slot < kWatchSlots; ++slot) {
        armed |= armed_.targets.at(slot).guest_address != 0 ? bit_of(slot) : 0U;
    }
    return armed;
}

WatchVerdict VcpuWatch::give_up() noexcept {
    disarmed_ = true;
    step_mask_ = 0;
    WatchVerdict verdict;
    verdict.foreign = true;
    return verdict;
}

WatchVerdict VcpuWatch::on_exit(const DebugExit& exit, std::uint64_t instruction_pointer) noexcept {
    return arch_ == GuestArch::x86_64 ? on_x86(exit) : on_aarch64(exit, instruction_pointer);
}

// What is nobody's is passed over here: the processor goes on behind it.
WatchVerdict VcpuWatch::on_x86(const DebugExit& exit) noexcept {
    WatchVerdict verdict;
    if (exit.exception != kX86DebugException) {
        verdict.foreign = true;  // then DR6 is left over from another exit
        return verdict;
    }
    bool is_ours = false;
    if ((exit.dr6 & kDr6SingleStep) != 0) {
        is_ours = step_mask_ != 0 || armed_.single_step;
        verdict.stepped = armed_.single_step;
        step_mask_ = 0;
    }
    // A processor may set the bits of slots that are not enabled.
    verdict.fired = static_cast<unsigned>(exit.dr6 & kDr6Slots) & armed();
    verdict.latch = verdict.fired;
    for (std::size_t slot = 0; slot < kWatchSlots; ++slot) {
        if ((verdict.fired & bit_of(slot)) != 0 && armed_.targets.at(slot).kind == WatchKind::execute) {
            step_mask_ |= bit_of(slot);
        }
    }
    verdict.foreign = !is_ours && verdict.fired == 0;
    return verdict;
}

WatchVerdict VcpuWatch::on_aarch64(const DebugExit& exit, std::uint64_t instruction_pointer) noexcept {
    const unsigned reason = exception_class(exit.syndrome);
    if (reason != kEcSoftStep) {
        stray_steps_ = 0;
    }
    switch (reason) {
        case kEcWatchpoint:
            return on_watchpoint(exit.fault_address);
        case kEcSoftStep:
            return on_soft_step();
        case kEcBreakpoint:
            return on_breakpoint(instruction_pointer);
        default:
            // A BRK of the guest's own comes here while anything is armed, and would come for ever: it has to reach
            // the guest.
            return give_up();
    }
}

WatchVerdict VcpuWatch::on_watchpoint(std::uint64_t fault_address) noexcept {
    WatchVerdict verdict;
    for (std::size_t slot = 0; slot < kWatchSlots; ++slot) {
        const WatchTarget& target = armed_.targets.at(slot);
        if (target.guest_address != 0 && target.kind == WatchKind::write && fault_address >= target.guest_address &&
            fault_address - target.guest_address < kWatchBytes) {
            verdict.fired |= bit_of(slot);
        }
    }
    if (verdict.fired == 0) {
        return give_up();
    }
    // The store is still to come, and with it perhaps the opening of slot 0's gate: that one waits for the soft step.
    verdict.latch = verdict.fired & ~bit_of(0);
    step_mask_ |= verdict.fired;
    return verdict;
}

WatchVerdict VcpuWatch::on_breakpoint(std::uint64_t instruction_pointer) noexcept {
    WatchVerdict verdict;
    for (std::size_t slot = 0; slot < kWatchSlots; ++slot) {
        const WatchTarget& target = armed_.targets.at(slot);
        if (target.guest_address != 0 && target.kind == WatchKind::execute &&
            break_value_aarch64(target.guest_address) == instruction_pointer) {
            verdict.fired |= bit_of(slot);
        }
    }
    if (verdict.fired == 0) {
        return give_up();
    }
    verdict.latch = verdict.fired;
    step_mask_ |= verdict.fired;
    return verdict;
}

WatchVerdict VcpuWatch::on_soft_step() noexcept {
    WatchVerdict verdict;
    verdict.stepped = armed_.single_step;
    if (step_mask_ != 0) {
        const bool waits = (step_mask_ & bit_of(0)) != 0 && armed_.targets.at(0).kind == WatchKind::write;
        verdict.latch = waits ? bit_of(0) : 0U;
        step_mask_ = 0;
    } else if (!armed_.single_step) {
        // One that nobody expected changes nothing; a guest that steps itself would come here for ever.
        if (++stray_steps_ >= kStrikes) {
            return give_up();
        }
        verdict.foreign = true;
        return verdict;
    }
    stray_steps_ = 0;
    return verdict;
}

}  // namespace vmthaw
