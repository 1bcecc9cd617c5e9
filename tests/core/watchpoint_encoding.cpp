#include "vcpu/watchpoint_encoding.hpp"

#include <gtest/gtest.h>

#include <cstdint>

#if defined(__x86_64__)
#include <linux/kvm.h>
#endif

namespace vmthaw {
namespace {

DebugSetup stores_to(std::uint64_t first, std::uint64_t second = 0, std::uint64_t third = 0, std::uint64_t fourth = 0) {
    DebugSetup setup;
    setup.targets = {{{first}, {second}, {third}, {fourth}}};
    return setup;
}

TEST(WatchpointEncoding, Dr7OfSlotZeroAloneIsTheNumberThatIsGiven) {
    const KvmGuestDebugX86 request = guest_debug_x86(stores_to(0x1234'5678));
    EXPECT_EQ(request.debugreg[7], 0xD0703U);
    EXPECT_EQ(request.debugreg[0], 0x1234'5678U);
    EXPECT_EQ(request.control, 1U | 0x20000U);  // ENABLE | USE_HW_BP
}

TEST(WatchpointEncoding, Dr7OfEachSlotHasItsOwnEnableAccessAndLengthBits) {
    EXPECT_EQ(guest_debug_x86(stores_to(0, 4)).debugreg[7], 0x700U | 3U << 2U | 1U << 20U | 3U << 22U);
    EXPECT_EQ(guest_debug_x86(stores_to(0, 0, 4)).debugreg[7], 0x700U | 3U << 4U | 1U << 24U | 3U << 26U);
    EXPECT_EQ(guest_debug_x86(stores_to(0, 0, 0, 4)).debugreg[7], 0x700U | 3U << 6U | 1U << 28U | 3ULL << 30U);
    EXPECT_EQ(guest_debug_x86(stores_to(4, 8, 12, 16)).debugreg[7], 0xDDDD07FFU);
    EXPECT_EQ(guest_debug_x86(stores_to(4, 8, 12, 16)).debugreg[3], 16U);
}

TEST(WatchpointEncoding, WatchRegistersOfAarch64AreTheNumbersThatAreGiven) {
    const KvmGuestDebugAarch64 request = guest_debug_aarch64(stores_to(0x1000, 0x1004));
    EXPECT_EQ(request.dbg_wvr[0], 0x1000U);
    EXPECT_EQ(request.dbg_wcr[0], 0x1F7U);
    EXPECT_EQ(request.dbg_wvr[1], 0x1000U);  // the double word
    EXPECT_EQ(request.dbg_wcr[1], 0x1E17U);
    EXPECT_EQ(request.dbg_wcr[2], 0U);
    EXPECT_EQ(request.control, 1U | 0x20000U);  // ENABLE | USE_HW
}

TEST(WatchpointEncoding, AnInstructionBreakpointHasNoLengthOnX86AndARegisterOfItsOwnOnAarch64) {
    DebugSetup setup;
    setup.targets[2] = {0x4002, WatchKind::execute};
    EXPECT_EQ(guest_debug_x86(setup).debugreg[7], 0x730U);
    EXPECT_EQ(guest_debug_x86(setup).debugreg[2], 0x4002U);
    EXPECT_EQ(guest_debug_aarch64(setup).dbg_bvr[2], 0x4000U);
    EXPECT_EQ(guest_debug_aarch64(setup).dbg_bcr[2], 0x1E7U);
    EXPECT_EQ(guest_debug_aarch64(setup).dbg_wcr[2], 0U);
}

TEST(WatchpointEncoding, ASlotThatIsSteppedOverLosesItsEnableBitAndTheVcpuSteps) {
    DebugSetup setup = stores_to(0x1000, 0x2000);
    setup.stepped_over = 0b01;
    const KvmGuestDebugAarch64 arm = guest_debug_aarch64(setup);
    EXPECT_EQ(arm.dbg_wcr[0], 0x1F6U);
    EXPECT_EQ(arm.dbg_wcr[1], 0x1F7U);
    EXPECT_EQ(arm.control, 1U | 2U | 0x20000U);
    const KvmGuestDebugX86 x86 = guest_debug_x86(setup);
    EXPECT_EQ(x86.debugreg[7] & 0xFU, 0b1100U);
    EXPECT_EQ(x86.control, 1U | 2U | 0x20000U);
}

TEST(WatchpointEncoding, SingleStepAloneUsesNoDebugRegister) {
    DebugSetup setup;
    setup.single_step = true;
    EXPECT_EQ(guest_debug_x86(setup).control, 1U | 2U);
    EXPECT_EQ(guest_debug_x86(setup).debugreg[7], 0U);
    EXPECT_EQ(guest_debug_aarch64(setup).control, 1U | 2U);
}

TEST(WatchpointEncoding, AnEmptySetupInterceptsNothing) {
    EXPECT_EQ(guest_debug_x86({}).control, 0U);
    EXPECT_EQ(guest_debug_x86({}).debugreg[7], 0U);
    EXPECT_EQ(guest_debug_aarch64({}).control, 0U);
}

#if defined(__x86_64__)
TEST(WatchpointEncoding, TheLayoutIsTheKernels) {
    static_assert(sizeof(KvmGuestDebugX86) == sizeof(kvm_guest_debug));
    static_assert(offsetof(KvmGuestDebugX86, debugreg) == offsetof(kvm_guest_debug, arch.debugreg));
    EXPECT_EQ(kKvmGuestDebugEnable, std::uint32_t{KVM_GUESTDBG_ENABLE});
    EXPECT_EQ(kKvmGuestDebugSingleStep, std::uint32_t{KVM_GUESTDBG_SINGLESTEP});
    EXPECT_EQ(kKvmGuestDebugUseHardware, std::uint32_t{KVM_GUESTDBG_USE_HW_BP});
}
#endif

TEST(WatchpointEncoding, ThereAreFourSlotsOfFourBytes) {
    EXPECT_EQ(kWatchSlots, 4U);
    EXPECT_EQ(kWatchBytes, 4U);
}

TEST(WatchpointEncoding, TheExceptionClassIsSixBitsFromBit26) {
    EXPECT_EQ(exception_class(0x34ULL << 26U | 0x3FFFFFFU), kEcWatchpoint);
    EXPECT_EQ(exception_class(0xFFFF'FFFFULL << 32U | 0x32ULL << 26U), kEcSoftStep);
    EXPECT_EQ(exception_class(0x30ULL << 26U), kEcBreakpoint);
}

}  // namespace
}  // namespace vmthaw
