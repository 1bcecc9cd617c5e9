// What a vCPU's debug exits mean, on both architectures, without a KVM.
#include <gtest/gtest.h>

#include <cerrno>
#include <cstdint>
#include <optional>

#include "vcpu/vcpu_watch.hpp"

namespace vmthaw {
namespace {

constexpr std::uint64_t kAt = 0xFFFF'8000'0000'1000;

WatchRequests stores(std::initializer_list<std::uint64_t> addresses, std::uint64_t number = 1) {
    WatchRequests requests;
    std::size_t slot = 0;
    for (const std::uint64_t address : addresses) {
        if (address != 0) {
            requests.at(slot) = {number, {address, WatchKind::write}};
        }
        ++slot;
    }
    return requests;
}

DebugExit x86_exit(std::uint64_t dr6) {
    DebugExit exit;
    exit.exception = 1;
    exit.dr6 = 0xFFFF0FF0U | dr6;
    return exit;
}
DebugExit arm_exit(std::uint64_t exception_class, std::uint64_t fault_address = 0) {
    DebugExit exit;
    exit.syndrome = exception_class << 26U | 1U << 25U;
    exit.fault_address = fault_address;
    return exit;
}

VcpuWatch armed(GuestArch arch, const WatchRequests& requests, bool single_step = false) {
    VcpuWatch watch(arch);
    EXPECT_TRUE(watch.prepare(requests, single_step).has_value());
    watch.note_result(0);
    return watch;
}
VcpuWatch armed_x86(const WatchRequests& requests) { return armed(GuestArch::x86_64, requests); }
VcpuWatch armed_arm(const WatchRequests& requests) { return armed(GuestArch::aarch64, requests); }

// Arms again as it must, and says what with.
DebugSetup rearm(VcpuWatch& watch, const WatchRequests& requests) {
    const auto setup = watch.prepare(requests, false);
    EXPECT_TRUE(setup.has_value());
    watch.note_result(0);
    return setup.value_or(DebugSetup{});
}

TEST(VcpuWatchArming, NothingIsArmedWhereNothingIsAskedFor) {
    VcpuWatch watch(GuestArch::x86_64);
    EXPECT_EQ(watch.prepare({}, false), std::nullopt);
    EXPECT_EQ(watch.armed(), 0U);
}

TEST(VcpuWatchArming, OneCallArmsAllFourAndNoneFollowsUntilARequestChanges) {
    VcpuWatch watch = armed_x86(stores({kAt, kAt + 4, kAt + 8, kAt + 12}));
    EXPECT_EQ(watch.armed(), 0b1111U);
    EXPECT_EQ(watch.prepare(stores({kAt, kAt + 4, kAt + 8, kAt + 12}), false), std::nullopt);
    EXPECT_TRUE(watch.prepare(stores({kAt, kAt + 4, kAt + 8, kAt + 16}), false).has_value());
}

TEST(VcpuWatchArming, AStepThatIsAskedForArmsAgainThoughNoRequestChanged) {
    for (const GuestArch arch : {GuestArch::x86_64, GuestArch::aarch64}) {
        const WatchRequests requests = stores({kAt});
        VcpuWatch watch = armed(arch, requests);
        const auto stepping = watch.prepare(requests, true);
        ASSERT_TRUE(stepping.has_value());
        EXPECT_TRUE(stepping->single_step);
        watch.note_result(0);
        EXPECT_EQ(watch.prepare(requests, true), std::nullopt);
        EXPECT_FALSE(rearm(watch, requests).single_step) << "the step is over, which arms again";
    }
}

TEST(VcpuWatchArming, TheLastDisarmGivesTheRegistersBack) {
    VcpuWatch watch = armed_x86(stores({kAt}));
    EXPECT_TRUE(rearm(watch, {}).is_empty());
    EXPECT_EQ(watch.armed(), 0U);
    EXPECT_EQ(watch.prepare({}, false), std::nullopt);
}

TEST(VcpuWatchArming, ThreeFailuresEndItUntilTheRequestChanges) {
    VcpuWatch watch(GuestArch::x86_64);
    for (int i = 0; i < 3; ++i) {
        EXPECT_FALSE(watch.has_struck_out());
        ASSERT_TRUE(watch.prepare(stores({kAt}), false).has_value());
        watch.note_result(EINVAL);
    }
    EXPECT_TRUE(watch.has_struck_out());
    EXPECT_EQ(watch.prepare(stores({kAt}), false), std::nullopt);
    EXPECT_EQ(watch.armed(), 0U);
    EXPECT_TRUE(watch.prepare(stores({kAt}, 2), false).has_value());  // the same address, another request
    EXPECT_FALSE(watch.has_struck_out());
}

TEST(VcpuWatchArming, AnInterruptionIsNotCounted) {
    VcpuWatch watch(GuestArch::x86_64);
    for (int i = 0; i < 20; ++i) {
        ASSERT_TRUE(watch.prepare(stores({kAt}), false).has_value());
        watch.note_result(EINTR);
    }
    EXPECT_FALSE(watch.has_struck_out());
}

TEST(VcpuWatchArming, ASuccessForgivesEarlierFailures) {
    VcpuWatch watch(GuestArch::aarch64);
    for (int i = 0; i < 2; ++i) {
        (void)watch.prepare(stores({kAt}), false);
        watch.note_result(ENOMEM);
    }
    (void)watch.prepare(stores({kAt}), false);
    watch.note_result(0);
    (void)watch.on_exit(arm_exit(kEcWatchpoint, kAt), 0);
    (void)watch.prepare(stores({kAt}), false);
    watch.note_result(ENOMEM);
    EXPECT_FALSE(watch.has_struck_out());
}

TEST(VcpuWatchX86, TheLowBitsOfDr6SayWhichSlotsAndSeveralLatchSeveral) {
    VcpuWatch watch = armed_x86(stores({kAt, kAt + 4, kAt + 8, kAt + 12}));
    for (unsigned slot = 0; slot < kWatchSlots; ++slot) {
        EXPECT_EQ(watch.on_exit(x86_exit(1U << slot), 0).latch, 1U << slot);
    }
    EXPECT_EQ(watch.on_exit(x86_exit(0b1011), 0).latch, 0b1011U);
}

TEST(VcpuWatchX86, NoBitOfDr6LatchesNothingAndChangesNothing) {
    VcpuWatch watch = armed_x86(stores({kAt}));
    const WatchVerdict verdict = watch.on_exit(x86_exit(0), 0);
    EXPECT_EQ(verdict.latch, 0U);
    EXPECT_TRUE(verdict.foreign);
    EXPECT_FALSE(watch.is_disarmed());
    EXPECT_EQ(watch.prepare(stores({kAt}), false), std::nullopt);
}

TEST(VcpuWatchX86, BitsOfSlotsThatAreNotArmedCountForNothing) {
    VcpuWatch watch = armed_x86(stores({0, kAt}));
    EXPECT_EQ(watch.on_exit(x86_exit(0b1111), 0).latch, 0b0010U);
}

TEST(VcpuWatchX86, AnotherExceptionsDr6IsAnOldOne) {
    VcpuWatch watch = armed_x86(stores({kAt}));
    DebugExit exit = x86_exit(1);
    exit.exception = 3;
    EXPECT_EQ(watch.on_exit(exit, 0), (WatchVerdict{0, 0, false, true}));
}

TEST(VcpuWatchX86, NeitherThePendingStepNorTheMaskEverChangesForStores) {
    VcpuWatch watch = armed_x86(stores({kAt, kAt + 4, kAt + 8, kAt + 12}));
    for (unsigned dr6 = 0; dr6 < 16; ++dr6) {
        (void)watch.on_exit(x86_exit(dr6), 0);
        EXPECT_FALSE(watch.is_step_pending());
        EXPECT_EQ(watch.step_mask(), 0U);
    }
}

TEST(VcpuWatchX86, ABreakpointIsSteppedOverAndArmedAgain) {
    WatchRequests requests = stores({0, kAt});
    requests[2] = {1, {0x4000, WatchKind::execute}};
    VcpuWatch watch = armed_x86(requests);
    EXPECT_EQ(watch.on_exit(x86_exit(0b0100), 0).latch, 0b0100U);
    EXPECT_EQ(watch.step_mask(), 0b0100U);
    const DebugSetup over = rearm(watch, requests);
    EXPECT_EQ(over.stepped_over, 0b0100U);
    // The instruction stores to what slot 1 watches: one exit tells of both.
    const WatchVerdict verdict = watch.on_exit(x86_exit(kDr6SingleStep | 0b0010U), 0);
    EXPECT_EQ(verdict, (WatchVerdict{0b0010, 0b0010, false, false}));
    EXPECT_EQ(rearm(watch, requests).stepped_over, 0U);
}

TEST(VcpuWatchX86, AStepThatSomebodyAskedForIsToldAndOthersAreForeign) {
    VcpuWatch stepping = armed(GuestArch::x86_64, {}, true);
    EXPECT_EQ(stepping.on_exit(x86_exit(kDr6SingleStep), 0), (WatchVerdict{0, 0, true, false}));
    VcpuWatch watching = armed_x86(stores({kAt}));
    EXPECT_EQ(watching.on_exit(x86_exit(kDr6SingleStep), 0), (WatchVerdict{0, 0, false, true}));
}

TEST(VcpuWatchAarch64, EverySlotWhoseFourBytesHaveTheAddressFires) {
    VcpuWatch watch = armed_arm(stores({0, kAt, kAt, kAt + 4}));
    EXPECT_EQ(watch.on_exit(arm_exit(kEcWatchpoint, kAt + 3), 0).latch, 0b0110U);
    EXPECT_EQ(watch.on_exit(arm_exit(kEcWatchpoint, kAt + 4), 0).latch, 0b1000U);
}

TEST(VcpuWatchAarch64, TheMaskIsABitmapOfSlotsAndTheNextArmStepsOverThem) {
    const WatchRequests requests = stores({0, 0, kAt, kAt + 0x100});
    VcpuWatch watch = armed_arm(requests);
    (void)watch.on_exit(arm_exit(kEcWatchpoint, kAt), 0);
    EXPECT_TRUE(watch.is_step_pending());
    EXPECT_EQ(watch.step_mask(), 0b0100U);
    const KvmGuestDebugAarch64 request = guest_debug_aarch64(rearm(watch, requests));
    EXPECT_EQ(request.dbg_wcr[2], 0x1F6U);
    EXPECT_EQ(request.dbg_wcr[3], 0x1F7U);
    EXPECT_EQ(request.control & kKvmGuestDebugSingleStep, kKvmGuestDebugSingleStep);
}

TEST(VcpuWatchAarch64, TheSoftStepArmsTheSlotAgain) {
    const WatchRequests requests = stores({0, kAt});
    VcpuWatch watch = armed_arm(requests);
    (void)watch.on_exit(arm_exit(kEcWatchpoint, kAt), 0);
    (void)rearm(watch, requests);
    EXPECT_EQ(watch.on_exit(arm_exit(kEcSoftStep), 0), WatchVerdict{});
    EXPECT_FALSE(watch.is_step_pending());
    EXPECT_EQ(guest_debug_aarch64(rearm(watch, requests)).dbg_wcr[1], 0x1F7U);
}

TEST(VcpuWatchAarch64, SlotZeroLatchesAtTheSoftStepWhenItsStoreIsDone) {
    const WatchRequests requests = stores({kAt, kAt});
    VcpuWatch watch = armed_arm(requests);
    const WatchVerdict before = watch.on_exit(arm_exit(kEcWatchpoint, kAt), 0);
    EXPECT_EQ(before.fired, 0b0011U);
    EXPECT_EQ(before.latch, 0b0010U);
    EXPECT_EQ(watch.step_mask(), 0b0011U);
    (void)rearm(watch, requests);
    EXPECT_EQ(watch.on_exit(arm_exit(kEcSoftStep), 0).latch, 0b0001U);
}

TEST(VcpuWatchAarch64, AnUnexpectedSoftStepChangesNothing) {
    VcpuWatch watch = armed_arm(stores({kAt}));
    const WatchVerdict verdict = watch.on_exit(arm_exit(kEcSoftStep), 0);
    EXPECT_EQ(verdict.latch, 0U);
    EXPECT_FALSE(watch.is_step_pending());
    EXPECT_FALSE(watch.is_disarmed());
    EXPECT_EQ(watch.prepare(stores({kAt}), false), std::nullopt);
}

TEST(VcpuWatchAarch64, AGuestThatStepsItselfIsLeftToItselfAfterThree) {
    VcpuWatch watch = armed_arm(stores({kAt}));
    (void)watch.on_exit(arm_exit(kEcSoftStep), 0);
    (void)watch.on_exit(arm_exit(kEcSoftStep), 0);
    (void)watch.on_exit(arm_exit(kEcWatchpoint, kAt), 0);  // not in a row
    (void)watch.on_exit(arm_exit(kEcSoftStep), 0);
    for (int i = 0; i < 3; ++i) {
        EXPECT_FALSE(watch.is_disarmed());
        EXPECT_TRUE(watch.on_exit(arm_exit(kEcSoftStep), 0).foreign);
    }
    EXPECT_TRUE(watch.is_disarmed());
}

TEST(VcpuWatchAarch64, ForeignExceptionsDisarmThatVcpuInsteadOfComingForEver) {
    constexpr std::uint64_t kEcBrk = 0x3C;
    for (const DebugExit& foreign : {arm_exit(kEcBrk), arm_exit(kEcWatchpoint, kAt + 4),
                                     arm_exit(kEcWatchpoint, kAt - 1), arm_exit(kEcBreakpoint)}) {
        const WatchRequests requests = stores({kAt});
        VcpuWatch watch = armed_arm(requests);
        EXPECT_EQ(watch.on_exit(foreign, 0x9000), (WatchVerdict{0, 0, false, true}));
        EXPECT_TRUE(watch.is_disarmed());
        EXPECT_TRUE(rearm(watch, requests).is_empty());
        EXPECT_EQ(watch.prepare(requests, false), std::nullopt);
        EXPECT_FALSE(rearm(watch, stores({kAt}, 2)).is_empty());  // until the request changes
        EXPECT_FALSE(watch.is_disarmed());
    }
}

TEST(VcpuWatchAarch64, AForeignExceptionDropsTheStepThatWasPending) {
    VcpuWatch watch = armed_arm(stores({kAt}));
    (void)watch.on_exit(arm_exit(kEcWatchpoint, kAt), 0);
    (void)watch.on_exit(arm_exit(0x3C), 0);
    EXPECT_EQ(watch.step_mask(), 0U);
    EXPECT_EQ(watch.on_exit(arm_exit(kEcSoftStep), 0).latch, 0U);
}

TEST(VcpuWatchAarch64, ABreakpointIsKnownByThePlaceAndSteppedOver) {
    WatchRequests requests;
    requests[0] = {1, {0x4000, WatchKind::execute}};
    requests[3] = {1, {0x4010, WatchKind::execute}};
    VcpuWatch watch = armed_arm(requests);
    EXPECT_EQ(watch.on_exit(arm_exit(kEcBreakpoint), 0x4010).latch, 0b1000U);
    EXPECT_EQ(rearm(watch, requests).stepped_over, 0b1000U);
    EXPECT_EQ(watch.on_exit(arm_exit(kEcSoftStep), 0x4014), WatchVerdict{});
    (void)rearm(watch, requests);
    // There is no store to wait for: slot 0 latches at once, and once.
    EXPECT_EQ(watch.on_exit(arm_exit(kEcBreakpoint), 0x4000).latch, 0b0001U);
    EXPECT_EQ(watch.on_exit(arm_exit(kEcSoftStep), 0x4004).latch, 0U);
}

TEST(VcpuWatchAarch64, AStepForOneRequestIsNotTheNextOnes) {
    VcpuWatch watch = armed_arm(stores({kAt, kAt + 8}));
    (void)watch.on_exit(arm_exit(kEcWatchpoint, kAt), 0);
    EXPECT_EQ(watch.step_mask(), 0b0001U);
    WatchRequests next = stores({kAt, kAt + 8});
    next[0].number = 2;
    EXPECT_EQ(watch.prepare(next, false), std::nullopt);  // the same store fires again, for the new one
    EXPECT_EQ(watch.step_mask(), 0U);
    EXPECT_EQ(watch.on_exit(arm_exit(kEcSoftStep), 0).latch, 0U);
}

TEST(VcpuWatchAarch64, AStepThatSomebodyAskedForIsTold) {
    VcpuWatch watch = armed(GuestArch::aarch64, stores({kAt}), true);
    EXPECT_TRUE(watch.on_exit(arm_exit(kEcSoftStep), 0).stepped);
    (void)watch.on_exit(arm_exit(kEcWatchpoint, kAt), 0);
    EXPECT_EQ(watch.on_exit(arm_exit(kEcSoftStep), 0), (WatchVerdict{0, 0b0001, true, false}));
}

}  // namespace
}  // namespace vmthaw
