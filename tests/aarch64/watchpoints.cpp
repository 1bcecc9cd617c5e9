// Watchpoints by the debug registers, which fire before the store, and by read-only pages.
#include <array>
#include <cstdint>
#include <optional>

#include "live_guest.hpp"
#include "machine/watchpoints/watch_probe.hpp"
#include "machine/watchpoints/watchpoints.hpp"

namespace vmthaw {
namespace {

constexpr std::uint64_t kGate = kData + 0x1000;
// str w1, [x3]; str w2, [x3]; mov w0, #0x84000008 (SYSTEM_OFF); hvc #0
constexpr std::array<std::uint32_t, 5> kStoresTwice{0xB9000061, 0xB9000062, 0x52800100, 0x72B08000, 0xD4000002};
// str w1, [x3]; brk #1; str w2, [x3]
constexpr std::array<std::uint32_t, 3> kBreaksBetween{0xB9000061, 0xD4200020, 0xB9000062};
constexpr std::uint64_t kEcBrk = 0x3C;

class LiveWatchpoints : public OnKvm {
protected:
    // The events of a guest that stores 7 and then 9 to kData.
    std::vector<WatchEvent> run(std::size_t slot, std::uint32_t gate,
                                std::span<const std::uint32_t> code = kStoresTwice) {
        LiveGuest guest;
        guest.load(std::as_bytes(code));
        guest.set(general_register(1), 7);
        guest.set(general_register(2), 9);
        guest.set(general_register(3), kData);
        const std::span<std::byte> gate_bytes = guest.memory().at(kGate, sizeof gate);
        guest.memory().write(kGate, std::as_bytes(std::span(&gate, 1)));
        WatchWish wish{{kData, WatchKind::write},
                       nullptr,
                       guest.memory().at(kData, kWatchBytes).data(),
                       kData,
                       WatchBackend::hardware};
        if (slot == 0) {
            wish.gate = reinterpret_cast<const std::uint32_t*>(gate_bytes.data());
        }
        watchpoints_ = std::make_shared<Watchpoints>(1);
        watchpoints_->set(slot, wish);
        RunLoopOptions options;
        options.watchpoints = watchpoints_;
        SerialBuses serial;
        RunLoop loop(guest.vcpus(), std::make_shared<Dispatcher>(ExitProfile::strict, serial.buses), {}, nullptr,
                     options);
        loop.run_vcpu(0);
        EXPECT_EQ(loop.end().value_or(RunEnd{}).kind, RunEndKind::shutdown);
        exception_class_ = guest.get(kRegisterEsr) >> 26U;
        std::vector<WatchEvent> events;
        WatchEvent event;
        while (watchpoints_->events().pop(event)) {
            events.push_back(event);
        }
        return events;
    }

    std::shared_ptr<Watchpoints> watchpoints_;
    std::uint64_t exception_class_ = 0;  // of the last exception that the guest took
};

TEST_F(LiveWatchpoints, WorkInEveryWayThatTheProbeLooksAt) {
    const WatchAbility ability = probe_watchpoints(Kvm());
    EXPECT_EQ(ability.data_slots, 0b1111U);
    EXPECT_TRUE(ability.execute);
    EXPECT_TRUE(ability.single_step);
    EXPECT_TRUE(ability.read_only_page);
}

TEST_F(LiveWatchpoints, TellOfEachStoreWhenItIsDoneAndLatchOnce) {
    const std::vector<WatchEvent> events = run(2, 0);
    ASSERT_EQ(events.size(), 2U);
    EXPECT_EQ(events[0].before, 0U);
    EXPECT_EQ(events[0].after, 7U);
    EXPECT_EQ(events[0].instruction_pointer, kCode + 4);
    EXPECT_TRUE(events[0].has_latched);
    EXPECT_EQ(events[1].before, 7U);
    EXPECT_EQ(events[1].after, 9U);
    EXPECT_EQ(events[1].instruction_pointer, kCode + 8);
    EXPECT_FALSE(events[1].has_latched);
    EXPECT_TRUE(watchpoints_->hit(2));
    EXPECT_EQ(watchpoints_->foreign(0), 0U);
}

TEST_F(LiveWatchpoints, AreTakenAwayWhenTheGuestsOwnBreakpointComesWhichThenReachesTheGuest) {
    const std::vector<WatchEvent> events = run(2, 0, kBreaksBetween);
    ASSERT_EQ(events.size(), 1U);
    EXPECT_EQ(events[0].after, 7U);
    EXPECT_EQ(watchpoints_->foreign(0), 1U);
    EXPECT_EQ(exception_class_, kEcBrk);
}

TEST_F(LiveWatchpoints, OfSlotZeroFireFromItsGateOn) {
    EXPECT_TRUE(run(0, kWatchGateThreshold - 1).empty());
    EXPECT_FALSE(watchpoints_->hit(0));
    EXPECT_EQ(run(0, kWatchGateThreshold).size(), 2U);
    EXPECT_TRUE(watchpoints_->hit(0));
}

}  // namespace
}  // namespace vmthaw
