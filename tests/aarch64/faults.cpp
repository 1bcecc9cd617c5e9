// What ends a run on x86-64 and none here: the guest gets an exception, and KVM tells nobody.
#include <cstdint>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "live_guest.hpp"

namespace vmthaw {
namespace {

constexpr std::uint64_t kSpinningVectors = kCode + 0x800;     // guests.S
constexpr std::uint64_t kHandler = kSpinningVectors + 0x200;  // synchronous, from EL1 with its own stack
constexpr std::uint64_t kNowhere = 0x0A000000;                // in no memory slot
constexpr std::uint64_t kUndefined = 0x00;                    // exception classes
constexpr std::uint64_t kInstructionAbort = 0x21;
constexpr std::uint64_t kRegisterFar = aarch64_system_register(3, 0, 6, 0, 0);

class Faults : public OnKvm {
protected:
    // Until it stands in its handler, and some freezes more: it stays there without an exit.
    static void expect_it_spins(LiveGuest& guest) {
        guest.set(kRegisterVbar, kSpinningVectors);
        SerialBuses serial;
        LiveRun run(guest, serial.buses);
        ASSERT_TRUE(run.loop().wait_begun(kPatience_ns));
        FreezeCoordinator& freezer = run.loop().freezer();
        const std::uint64_t deadline_ns = monotonic_ns() + kPatience_ns;
        for (int times_seen = 0; times_seen < 5;) {
            const FreezeCoordinator::Outcome outcome = freezer.freeze(kPatience_ns);
            ASSERT_EQ(outcome.status, FreezeStatus::frozen) << run.loop().end().value_or(RunEnd{}).exit.describe();
            const std::uint64_t place = outcome.snapshots.at(0).value().instruction_pointer;
            freezer.thaw();
            ASSERT_TRUE(times_seen == 0 || place == kHandler) << "it left the handler for " << hex(place);
            times_seen += place == kHandler ? 1 : 0;
            ASSERT_LT(monotonic_ns(), deadline_ns) << "it is at " << hex(place);
        }
        EXPECT_FALSE(run.loop().end().has_value());
        for (std::uint32_t reason = 0; reason < VcpuCounters::kReasons; ++reason) {
            EXPECT_EQ(run.loop().counters(0).exits(reason), 0U) << reason;
        }
        run.loop().stop();
        EXPECT_EQ(run.wait().kind, RunEndKind::stopped);
    }
    static std::uint64_t exception_class(const LiveGuest& guest) { return guest.get(kRegisterEsr) >> 26U & 0x3FU; }
};

TEST_F(Faults, AnUndefinedInstructionIsTheGuestsOwnAffair) {
    LiveGuest guest;
    guest.load(guests::is_undefined());
    ASSERT_NO_FATAL_FAILURE(expect_it_spins(guest));
    EXPECT_EQ(exception_class(guest), kUndefined);
}

TEST_F(Faults, AFetchFromNowhereIsTheGuestsOwnAffair) {
    LiveGuest guest;
    guest.load(guests::goes_nowhere());
    guest.set(general_register(19), kNowhere);
    ASSERT_NO_FATAL_FAILURE(expect_it_spins(guest));
    EXPECT_EQ(exception_class(guest), kInstructionAbort);
    EXPECT_EQ(guest.get(kRegisterFar), kNowhere);
}

}  // namespace
}  // namespace vmthaw
