// Freezing vCPUs that run and exit, again and again.
#include <linux/kvm.h>

#include <array>

#include "live_guest.hpp"

namespace vmthaw {
namespace {

class Freeze : public OnKvm {};

TEST_F(Freeze, StopsThreeVcpusWhereTheyAreAndLetsThemGoOnManyTimes) {
    constexpr int kCycles = 200;
    constexpr std::size_t kVcpus = 3;
    LiveGuest guest(kVcpus);
    guest.load(guests::counts());
    SerialBuses serial;
    LiveRun run(guest, serial.buses);
    ASSERT_TRUE(run.loop().wait_begun(kPatience_ns));
    FreezeCoordinator& freezer = run.loop().freezer();
    std::array<std::uint64_t, kVcpus> counted{};
    std::array<int, kVcpus> moved{};
    for (int cycle = 0; cycle < kCycles; ++cycle) {
        const FreezeCoordinator::Outcome outcome = freezer.freeze(kPatience_ns);
        ASSERT_EQ(outcome.status, FreezeStatus::frozen)
            << "cycle " << cycle << ": " << run.loop().end().value_or(RunEnd{}).exit.describe();
        for (std::size_t i = 0; i < kVcpus; ++i) {
            ASSERT_TRUE(freezer.is_parked(i));
            ASSERT_TRUE(outcome.snapshots.at(i).has_value()) << "cycle " << cycle;
            const RegisterSnapshot& snapshot = *outcome.snapshots.at(i);
            ASSERT_GE(snapshot.instruction_pointer, kCode);
            ASSERT_LT(snapshot.instruction_pointer, kCode + guests::counts().size());
            ASSERT_EQ(snapshot.stack_pointer, LiveGuest::stack_of(i));
            // What its own thread captured is what stands there, and it stands.
            ASSERT_EQ(guest.get(kRegisterPc, i), snapshot.instruction_pointer);
            const std::uint64_t count = guest.get(general_register(19), i);
            ASSERT_GE(count, counted.at(i));
            moved.at(i) += count > counted.at(i) ? 1 : 0;
            counted.at(i) = count;
        }
        for (std::size_t i = 0; i < kVcpus; ++i) {
            ASSERT_EQ(guest.get(general_register(19), i), counted.at(i)) << "it moved while it was frozen";
        }
        freezer.thaw();
    }
    for (std::size_t i = 0; i < kVcpus; ++i) {
        EXPECT_GT(moved.at(i), kCycles / 20) << "vCPU " << i << " hardly ever ran between two freezes";
        EXPECT_GT(run.loop().counters(i).exits(KVM_EXIT_MMIO), 0U) << "vCPU " << i << " never came to an exit";
    }
    run.loop().stop();
    EXPECT_EQ(run.wait().kind, RunEndKind::stopped);
}

TEST_F(Freeze, StopsAGuestThatWaitsInTheKernel) {
    LiveGuest guest(2);
    guest.load(guests::waits());
    SerialBuses serial;
    LiveRun run(guest, serial.buses);
    ASSERT_TRUE(run.loop().wait_begun(kPatience_ns));
    for (int cycle = 0; cycle < 20; ++cycle) {
        const FreezeCoordinator::Outcome outcome = run.loop().freezer().freeze(kPatience_ns);
        ASSERT_EQ(outcome.status, FreezeStatus::frozen) << "cycle " << cycle;
        for (const auto& snapshot : outcome.snapshots) {
            ASSERT_LT(snapshot.value().instruction_pointer - kCode, guests::waits().size());
        }
        run.loop().freezer().thaw();
    }
}

}  // namespace
}  // namespace vmthaw
