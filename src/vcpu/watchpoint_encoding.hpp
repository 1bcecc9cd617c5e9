#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "kernel/kvm_guest_debug.hpp"

namespace vmthaw {

inline constexpr std::size_t kWatchSlots = 4;
inline constexpr std::uint64_t kWatchBytes = 4;

// Stores to four bytes, or the execution of the instruction at an address.
enum class WatchKind : std::uint8_t { write, execute };

// What one slot watches; address 0: nothing.
struct WatchTarget {
    std::uint64_t guest_address = 0;  // as the guest's code sees it, a multiple of 4 for `write`
    WatchKind kind = WatchKind::write;
    bool operator==(const WatchTarget&) const = default;
};

// What a vCPU's debug registers are to be: all slots and the step posture in one. A plain value.
struct DebugSetup {
    std::array<WatchTarget, kWatchSlots> targets;
    unsigned stepped_over = 0;  // bitmap of slots that rest until one instruction is done; any: single step
    bool single_step = false;   // somebody wants every instruction

    [[nodiscard]] bool is_empty() const noexcept;
    bool operator==(const DebugSetup&) const = default;
};

// Enabled both ways (L and G), 4 bytes, on writes; or at execution, where the length field must be 0.
// Source: Intel SDM volume 3, 18.2.4; bits 8 to 10 (LE, GE and the one that is always set) as Linux writes them.
inline constexpr std::uint64_t kDr7Base = 0x700;
[[nodiscard]] constexpr std::uint64_t dr7_of(std::size_t slot, WatchKind kind) noexcept {
    const std::uint64_t enabled = std::uint64_t{3} << 2 * slot;
    return kind == WatchKind::execute
               ? enabled
               : enabled | std::uint64_t{1} << (16 + 4 * slot) | std::uint64_t{3} << (18 + 4 * slot);
}
inline constexpr std::uint64_t kDr6Slots = 0xF;
inline constexpr std::uint64_t kDr6SingleStep = 1U << 14U;
inline constexpr std::uint32_t kX86DebugException = 1;  // #DB

// DBGWVR, DBGWCR, DBGBVR, DBGBCR. Enabled at EL0 and EL1; BAS says which bytes of the double word at the value count.
// Source: Arm Architecture Reference Manual, D23.3 (DBGWCR<n>_EL1, DBGBCR<n>_EL1).
[[nodiscard]] constexpr std::uint64_t watch_value_aarch64(std::uint64_t address) noexcept {
    return address & ~std::uint64_t{7};
}
[[nodiscard]] constexpr std::uint64_t watch_control_aarch64(std::uint64_t address) noexcept {
    return 1U | 3U << 1U | 2U << 3U | (std::uint64_t{0xF} << (address & 7U)) << 5U;
}
[[nodiscard]] constexpr std::uint64_t break_value_aarch64(std::uint64_t address) noexcept {
    return address & ~std::uint64_t{3};
}
inline constexpr std::uint64_t kBreakControlAarch64 = 1U | 3U << 1U | 0xFU << 5U;
inline constexpr std::uint64_t kDebugRegisterEnabled = 1;  // of both controls

// Why aarch64 came out: the exception class of the syndrome.
inline constexpr unsigned kEcBreakpoint = 0x30;
inline constexpr unsigned kEcSoftStep = 0x32;
inline constexpr unsigned kEcWatchpoint = 0x34;
[[nodiscard]] constexpr unsigned exception_class(std::uint64_t syndrome) noexcept {
    return static_cast<unsigned>(syndrome >> 26U) & 0x3FU;
}

// The argument of KVM_SET_GUEST_DEBUG, on any host. An empty setup gives control 0: nothing is intercepted.
[[nodiscard]] KvmGuestDebugX86 guest_debug_x86(const DebugSetup& setup) noexcept;
[[nodiscard]] KvmGuestDebugAarch64 guest_debug_aarch64(const DebugSetup& setup) noexcept;

}  // namespace vmthaw
