#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "vcpu/exit.hpp"
#include "vcpu/watchpoint_encoding.hpp"

namespace vmthaw {

// What one slot asks for. The number is another for every request, also for one of the same address.
struct WatchRequest {
    std::uint64_t number = 0;
    WatchTarget target;
    bool operator==(const WatchRequest&) const = default;
};
using WatchRequests = std::array<WatchRequest, kWatchSlots>;

// What a debug exit meant.
struct WatchVerdict {
    unsigned fired = 0;    // bitmap: the access is about to happen (aarch64's stores, instructions) or has
    unsigned latch = 0;    // bitmap: now is the time to latch these (and, of slot 0, to read its gate)
    bool stepped = false;  // an instruction is done, and somebody wanted every one
    bool foreign = false;  // nobody's here: the guest's own, or nothing that was asked for
    bool operator==(const WatchVerdict&) const = default;
};

// One vCPU's debug registers: what to make them, and what an exit of theirs means. Pure, for either architecture on any
// host; the vCPU's thread's alone. Nothing here throws or allocates.
//
// On aarch64 a watchpoint fires before its store, and the same store would fire for ever: the slots that fired rest
// for one instruction (a bitmap, step_mask()), and the soft step after it wakes them. An instruction breakpoint fires
// before its instruction on both architectures and is stepped over in the same way; x86-64's data watchpoints fire
// afterwards and never change the mask.
class VcpuWatch {
public:
    static constexpr unsigned kStrikes = 3;

    explicit VcpuWatch(GuestArch arch) noexcept : arch_(arch) {}

    // Before a KVM_RUN: what KVM_SET_GUEST_DEBUG is to be called with, or nothing when that is what it has, or when it
    // failed three times for this request. Report the outcome by note_result.
    [[nodiscard]] std::optional<DebugSetup> prepare(const WatchRequests& requests, bool single_step) noexcept;
    // The errno of KVM_SET_GUEST_DEBUG, 0 when it went well. EINTR is not counted.
    void note_result(int error) noexcept;

    // `instruction_pointer`: of aarch64's breakpoints, which say nothing else; x86-64's exit has it.
    [[nodiscard]] WatchVerdict on_exit(const DebugExit& exit, std::uint64_t instruction_pointer) noexcept;

    [[nodiscard]] bool is_step_pending() const noexcept { return step_mask_ != 0; }
    [[nodiscard]] unsigned step_mask() const noexcept { return step_mask_; }
    // Slots that the vCPU's registers hold now, resting or not.
    [[nodiscard]] unsigned armed() const noexcept;
    // Their requests as of the last prepare().
    [[nodiscard]] const WatchRequests& requests() const noexcept { return requests_; }
    // A foreign exception has disarmed this vCPU, until a request changes.
    [[nodiscard]] bool is_disarmed() const noexcept { return disarmed_; }
    // It cannot be armed as it should: an exit that needs that would come for ever.
    [[nodiscard]] bool has_struck_out() const noexcept { return failures_ >= kStrikes; }

private:
    [[nodiscard]] WatchVerdict on_x86(const DebugExit& exit) noexcept;
    [[nodiscard]] WatchVerdict on_aarch64(const DebugExit& exit, std::uint64_t instruction_pointer) noexcept;
    [[nodiscard]] WatchVerdict on_watchpoint(std::uint64_t fault_address) noexcept;
    [[nodiscard]] WatchVerdict on_breakpoint(std::uint64_t instruction_pointer) noexcept;
    [[nodiscard]] WatchVerdict on_soft_step() noexcept;
    [[nodiscard]] WatchVerdict give_up() noexcept;
    [[nodiscard]] DebugSetup setup() const noexcept;

    GuestArch arch_;
    WatchRequests requests_;
    bool single_step_ = false;
    unsigned step_mask_ = 0;
    bool disarmed_ = false;
    unsigned failures_ = 0;
    unsigned stray_steps_ = 0;  // in a row
    DebugSetup armed_;          // what the registers hold
    DebugSetup tried_;          // what prepare() gave last
};

}  // namespace vmthaw
