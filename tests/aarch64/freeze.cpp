// Freezing vCPUs that run and exit, again and again.
#include <linux/kvm.h>

#include <array>
#include <thread>

#include "base/clock.hpp"
#include "live_guest.hpp"

namespace vmthaw {
namespace {

class Freeze : public OnKvm {};

// One freeze after the other may stop a guest before it has done anything, on a busy machine every time. Of two exits
// the first may have been due already; before the second the guest counts.
void let_all_count(RunLoop& loop) {
    const std::uint64_t deadline_ns = monotonic_ns() + kPatience_ns;
    for (std::size_t i = 0; i < loop.vcpu_count(); ++i) {
        const std::uint64_t enough = loop.counters(i).exits(KVM_EXIT_MMIO) + 2;
        while (loop.counters(i).exits(KVM_EXIT_MMIO) < enough) {
            ASSERT_LT(monotonic_ns(), deadline_ns) << "vCPU " << i << " does not exit";
            std::this_thread::yield();
        }
    }
}

TEST_F(Freeze, StopsThreeVcpusWhereTheyAreAndLetsThemGoOnManyTimes) {
    constexpr int kCycles = 200;
    constexpr int kCyclesInARow = 20;
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
        if (cycle % kCyclesInARow == 0) {
            ASSERT_NO_FATAL_FAILURE(let_all_count(run.loop())) << "cycle " << cycle;
        }
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
        EXPECT_GE(moved.at(i), kCycles / kCyclesInARow) << "vCPU " << i << " exited but did not count";
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
    ASSERT_NO_FATAL_FAILURE(LiveRun::wait_asleep());
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
