#include "vcpu/watchpoint_encoding.hpp"

#include <algorithm>

namespace vmthaw {
namespace {

bool has_targets(const DebugSetup& setup) noexcept {
    return std::ranges::any_of(setup.targets, [](const WatchTarget& target) { return target.guest_address != 0; });
}

std::uint32_t control_of(const DebugSetup& setup) noexcept {
    if (setup.is_empty()) {
        return 0;
    }
    const bool steps = setup.single_step || setup.stepped_over != 0;
    return kKvmGuestDebugEnable | (has_targets(setup) ? kKvmGuestDebugUseHardware : 0U) |
           (steps ? kKvmGuestDebugSingleStep : 0U);
}

}  // namespace

bool DebugSetup::is_empty() const noexcept { return !single_step && stepped_over == 0 && !has_targets(*this); }

KvmGuestDebugX86 guest_debug_x86(const DebugSetup& setup) noexcept {
    KvmGuestDebugX86 request{};
    request.control = control_of(setup);
    if ((request.control & kKvmGuestDebugUseHardware) == 0) {
        return request;
    }
    request.debugreg[7] = kDr7Base;
    for (std::size_t slot = 0; slot < kWatchSlots; ++slot) {
        const WatchTarget& target = setup.targets.at(slot);
        request.debugreg[slot] = target.guest_address;
        if (target.guest_address != 0 && (setup.stepped_over >> slot & 1U) == 0) {
            request.debugreg[7] |= dr7_of(slot, target.kind);
        }
    }
    return request;
}

KvmGuestDebugAarch64 guest_debug_aarch64(const DebugSetup& setup) noexcept {
    KvmGuestDebugAarch64 request{};
    request.control = control_of(setup);
    for (std::size_t slot = 0; slot < kWatchSlots; ++slot) {
        const WatchTarget& target = setup.targets.at(slot);
        if (target.guest_address == 0) {
            continue;
        }
        const std::uint64_t rests = (setup.stepped_over >> slot & 1U) != 0 ? kDebugRegisterEnabled : 0U;
        if (target.kind == WatchKind::write) {
            request.dbg_wvr[slot] = watch_value_aarch64(target.guest_address);
            request.dbg_wcr[slot] = watch_control_aarch64(target.guest_address) & ~rests;
        } else {
            request.dbg_bvr[slot] = break_value_aarch64(target.guest_address);
            request.dbg_bcr[slot] = kBreakControlAarch64 & ~rests;
        }
    }
    return request;
}

}  // namespace vmthaw
