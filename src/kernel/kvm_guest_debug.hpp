#pragma once

#include <cstdint>

// struct kvm_guest_debug of both architectures, and what its control takes.
// Source: include/uapi/linux/kvm.h and arch/{x86,arm64}/include/uapi/asm/kvm.h of Linux 6.18; they never change.
namespace vmthaw {

struct KvmGuestDebugX86 {
    std::uint32_t control;
    std::uint32_t pad;
    std::uint64_t debugreg[8];  // 0 to 3: addresses, 7: DR7
};
struct KvmGuestDebugAarch64 {
    std::uint32_t control;
    std::uint32_t pad;
    std::uint64_t dbg_bcr[16];
    std::uint64_t dbg_bvr[16];
    std::uint64_t dbg_wcr[16];
    std::uint64_t dbg_wvr[16];
};
static_assert(sizeof(KvmGuestDebugX86) == 72 && sizeof(KvmGuestDebugAarch64) == 520);

inline constexpr std::uint32_t kKvmGuestDebugEnable = 1;
inline constexpr std::uint32_t kKvmGuestDebugSingleStep = 2;
inline constexpr std::uint32_t kKvmGuestDebugUseHardware = 1U << 17U;  // x86-64: USE_HW_BP, aarch64: USE_HW

}  // namespace vmthaw
