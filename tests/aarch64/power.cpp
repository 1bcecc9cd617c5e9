// PSCI, and what a guest finds where nothing is.
#include <linux/kvm.h>

#include <cerrno>

#include "live_guest.hpp"

namespace vmthaw {
namespace {

class Power : public OnKvm {};

SystemEventExit event_of(const RunEnd& end) {
    const auto* const event = std::get_if<SystemEventExit>(&end.exit.payload);
    return event != nullptr ? *event : SystemEventExit{};
}

TEST_F(Power, EachWayOutIsAShutdownThatSaysWhichItWas) {
    struct Case {
        std::span<const std::byte> code;
        std::uint32_t type;
        std::uint64_t data;  // which kind of reset
    };
    for (const Case& one :
         {Case{guests::powers_off(), kKvmSystemEventShutdown, 0}, Case{guests::resets(), kKvmSystemEventReset, 0},
          Case{guests::resets_by_kind(), kKvmSystemEventReset, 1}}) {
        LiveGuest guest;
        guest.load(one.code);
        SerialBuses serial;
        LiveRun run(guest, serial.buses);
        const RunEnd end = run.wait();
        EXPECT_EQ(end.kind, RunEndKind::shutdown);
        EXPECT_EQ(event_of(end).type, one.type);
        EXPECT_EQ(event_of(end).data_count, 1U);
        EXPECT_EQ(event_of(end).data.at(0), one.data);
    }
}

TEST_F(Power, AVcpuThatWaitsForItIsStartedByAnotherWhichEndsBoth) {
    LiveGuest guest(2);
    guest.load(guests::starts_another());
    guest.vcpu(1).set_mp_state({KVM_MP_STATE_STOPPED});
    EXPECT_EQ(guest.vcpu(0).mp_state().mp_state, unsigned{KVM_MP_STATE_RUNNABLE});
    guest.set(general_register(19), 1);
    guest.set(general_register(20), 'B');
    SerialBuses serial;
    LiveRun run(guest, serial.buses);
    const RunEnd end = run.wait();
    EXPECT_EQ(end.kind, RunEndKind::shutdown);
    EXPECT_EQ(end.vcpu, 1U);
    EXPECT_EQ(serial.said(), "B");
    EXPECT_EQ(guest.get(general_register(21), 0), 0U) << "what PSCI answered";
}

TEST_F(Power, StopEndsAGuestThatWaitsInTheKernelForAnInterrupt) {
    LiveGuest guest(2);
    guest.load(guests::waits());
    SerialBuses serial;
    LiveRun run(guest, serial.buses);
    ASSERT_TRUE(run.loop().wait_begun(kPatience_ns));
    ASSERT_NO_FATAL_FAILURE(LiveRun::wait_asleep());
    ASSERT_FALSE(run.loop().end().has_value());
    run.loop().stop();
    EXPECT_EQ(run.wait().kind, RunEndKind::stopped);
}

TEST_F(Power, APairFromADeviceIsFatalForTheKernelCannotSayWhatItIs) {
    LiveGuest guest;
    guest.load(guests::loads_a_pair());
    SerialBuses serial;
    LiveRun run(guest, serial.buses);
    const RunEnd end = run.wait();
    EXPECT_EQ(end.kind, RunEndKind::fatal);
    EXPECT_FALSE(end.exit.has_reason);
    EXPECT_EQ(end.exit.errno_value, ENOSYS);
}

TEST_F(Power, WhereNothingIsTheBusIsAllOnes) {
    LiveGuest guest;
    guest.load(guests::loads());
    guest.set(general_register(19), 0x0A000000);
    SerialBuses serial;
    LiveRun run(guest, serial.buses);
    EXPECT_EQ(run.wait().kind, RunEndKind::shutdown);
    EXPECT_EQ(guest.get(general_register(21)), 0xFFFFFFFFU);
}

}  // namespace
}  // namespace vmthaw
