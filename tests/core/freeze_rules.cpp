// The freeze protocol's rules one by one, on one thread: what is done in which order, and how long a wait may be.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "freeze_script.hpp"
#include "machine/freeze/basic_freeze_coordinator.hpp"

namespace vmthaw {
namespace {

using namespace script;
using Coordinator = BasicFreezeCoordinator<ScriptedPlatform>;
using Log = std::vector<std::string>;
constexpr std::uint64_t kMs = 1'000'000;

class FreezeRules : public ::testing::Test {
protected:
    void SetUp() override { scene() = {}; }
    [[nodiscard]] Coordinator make(FreezeEvents events = {}) {
        return Coordinator(std::vector<ScriptedVcpu*>{&vcpus_[0], &vcpus_[1], &vcpus_[2]}, events);
    }
    // While a vCPU waits, the freeze succeeds and is over.
    static void thaw_in_the_wait(Coordinator& coordinator, Coordinator::Outcome& outcome) {
        scene().on_wait = [&] {
            coordinator.finish_freeze(outcome);
            if (outcome.status == FreezeStatus::frozen) {
                coordinator.thaw();
            }
        };
    }
    std::array<ScriptedVcpu, 3> vcpus_{ScriptedVcpu(0), ScriptedVcpu(1), ScriptedVcpu(2)};
};

TEST_F(FreezeRules, TheRequestComesBeforeTheFlagsAndTheFlagsBeforeTheKicksOfThoseWithAThread) {
    Coordinator coordinator = make();
    coordinator.attach(0);
    coordinator.attach(2);
    coordinator.begin_freeze();
    EXPECT_EQ(scene().take_log(),
              (Log{"number 1", "immediate_exit of 0", "immediate_exit of 2", "fence", "kick 0", "kick 2"}));
}

TEST_F(FreezeRules, AParkIsDrainCaptureAnswerAndOneEdge) {
    Coordinator coordinator = make();
    Coordinator::Outcome outcome;
    coordinator.attach(1);
    coordinator.begin_freeze();
    (void)scene().take_log();
    Log until_the_wait;
    scene().on_wait = [&] {
        until_the_wait = scene().take_log();
        EXPECT_TRUE(coordinator.is_parked(1));
        coordinator.finish_freeze(outcome);
        coordinator.thaw();
        EXPECT_EQ(scene().take_log(), (Log{"number 2", "edge", "edge", "edge"}));  // each has a thaw event of its own
    };
    EXPECT_EQ(coordinator.head(1), LoopHead::run);
    // (Two numbers: which request the snapshot is for, and the answer.)
    EXPECT_EQ(until_the_wait,
              (Log{"no immediate_exit of 1", "fence", "drain 1", "capture 1", "number 1", "number 1", "edge"}));
    EXPECT_EQ(scene().take_log(), Log{"number 0"});
    EXPECT_EQ(coordinator.parked_event()->edges(), 1);
    EXPECT_FALSE(coordinator.is_parked(1));
    EXPECT_EQ(outcome.status, FreezeStatus::frozen);
    EXPECT_EQ(outcome.snapshots, (std::vector<std::optional<std::uint64_t>>{{}, 77, {}}));
}

TEST_F(FreezeRules, AFreezeThatIsOverBeforeTheParkStillGivesOneEdgeAndASnapshot) {
    Coordinator coordinator = make();
    Coordinator::Outcome outcome;
    coordinator.attach(0);
    coordinator.begin_freeze();
    scene().on_drain = [&] { coordinator.finish_freeze(outcome); };
    EXPECT_EQ(coordinator.head(0), LoopHead::run);
    EXPECT_EQ(outcome.status, FreezeStatus::timed_out);
    EXPECT_EQ(outcome.not_parked, std::vector<std::size_t>{0});
    EXPECT_TRUE(outcome.snapshots.empty());
    EXPECT_EQ(coordinator.parked_event()->edges(), 1);
    EXPECT_FALSE(coordinator.is_parked(0));
    const Log log = scene().take_log();
    EXPECT_EQ(std::count(log.begin(), log.end(), "capture 0"), 1);
    EXPECT_TRUE(scene().waits_ns.empty());
}

TEST_F(FreezeRules, AFailedCaptureStoresNothingAndParksAllTheSame) {
    Coordinator coordinator = make();
    Coordinator::Outcome outcome;
    coordinator.attach(0);
    for (const std::optional<std::uint64_t> registers : {std::optional<std::uint64_t>(5), {}}) {
        vcpus_[0].registers = registers;
        coordinator.begin_freeze();
        thaw_in_the_wait(coordinator, outcome);
        EXPECT_EQ(coordinator.head(0), LoopHead::run);
        EXPECT_EQ(outcome.status, FreezeStatus::frozen);
        EXPECT_EQ(outcome.snapshots[0], registers);
    }
    EXPECT_EQ(coordinator.parked_event()->edges(), 2);
}

TEST_F(FreezeRules, AFailedDrainIsAWarningAndNoMore) {
    Coordinator coordinator = make();
    Coordinator::Outcome outcome;
    coordinator.attach(1);
    vcpus_[1].drain_error = EFAULT;
    coordinator.begin_freeze();
    thaw_in_the_wait(coordinator, outcome);
    EXPECT_EQ(coordinator.head(1), LoopHead::run);
    EXPECT_EQ(scene().warnings, (std::vector<std::pair<std::size_t, int>>{{1, EFAULT}}));
    EXPECT_EQ(outcome.snapshots[1], std::optional<std::uint64_t>(77));
}

TEST_F(FreezeRules, AParkedVcpuLooksAgainEvery100MsAndEvery10WithoutAnEvent) {
    const std::pair<FreezeEvents, std::uint64_t> cases[] = {{{}, 100 * kMs},
                                                            {{false, true, true}, 100 * kMs},
                                                            {{true, false, true}, 10 * kMs},
                                                            {{true, true, false}, 10 * kMs}};
    for (const auto& [events, expected_ns] : cases) {
        SetUp();
        Coordinator coordinator = make(events);
        Coordinator::Outcome outcome;
        coordinator.attach(0);
        coordinator.begin_freeze();
        scene().on_wait = [&] {
            if (scene().waits_ns.size() == 3) {
                coordinator.finish_freeze(outcome);
                coordinator.thaw();
            }
        };
        EXPECT_EQ(coordinator.head(0), LoopHead::run);
        EXPECT_EQ(scene().waits_ns, std::vector<std::uint64_t>(3, expected_ns));
        EXPECT_EQ(coordinator.parked_event() != nullptr, events.parked);
    }
}

TEST_F(FreezeRules, AFreezeWaitsUntilItsDeadlineAndNoLonger) {
    Coordinator coordinator = make();
    coordinator.attach(0);
    coordinator.attach(2);
    scene().now_ns = 7;
    const Coordinator::Outcome outcome = coordinator.freeze(250 * kMs);
    EXPECT_EQ(scene().waits_ns, (std::vector<std::uint64_t>{100 * kMs, 100 * kMs, 50 * kMs}));
    EXPECT_EQ(outcome.status, FreezeStatus::timed_out);
    EXPECT_EQ(outcome.not_parked, (std::vector<std::size_t>{0, 2}));
    scene().waits_ns.clear();
    Coordinator without = make({false, true, true});
    without.attach(0);
    (void)without.freeze(15 * kMs);
    EXPECT_EQ(scene().waits_ns, (std::vector<std::uint64_t>{10 * kMs, 5 * kMs}));
    // For ever is a deadline too.
    scene().waits_ns.clear();
    scene().on_wait = [&] { without.kill(); };
    EXPECT_EQ(without.freeze(~std::uint64_t{0}).status, FreezeStatus::killed);
}

TEST_F(FreezeRules, AThreadWithOtherThingsToDoComesBackStillParked) {
    Coordinator coordinator = make();
    Coordinator::Outcome outcome;
    coordinator.attach(0);
    coordinator.begin_freeze();
    EXPECT_EQ(coordinator.head(0, 50 * kMs), LoopHead::parked);
    EXPECT_EQ(scene().waits_ns, std::vector<std::uint64_t>{50 * kMs});
    EXPECT_TRUE(coordinator.is_parked(0));
    coordinator.finish_freeze(outcome);
    EXPECT_EQ(outcome.status, FreezeStatus::frozen);
    EXPECT_EQ(coordinator.head(0, 50 * kMs), LoopHead::parked);
    // It is one park, however often it looks.
    EXPECT_EQ(coordinator.parked_event()->edges(), 1);
    const Log log = scene().take_log();
    EXPECT_EQ(std::count(log.begin(), log.end(), "capture 0"), 1);
    coordinator.thaw();
    EXPECT_TRUE(coordinator.is_parked(0));  // it has not come back yet
    coordinator.begin_freeze();
    EXPECT_EQ(coordinator.head(0, 50 * kMs), LoopHead::parked);  // for the next request
    coordinator.finish_freeze(outcome);
    EXPECT_EQ(outcome.status, FreezeStatus::frozen);
    EXPECT_EQ(coordinator.parked_event()->edges(), 2);
    coordinator.thaw();
    EXPECT_EQ(coordinator.head(0, 50 * kMs), LoopHead::run);
}

TEST_F(FreezeRules, AnAnswerThatWasNotTakenBackDoesNotCountForTheNextFreeze) {
    Coordinator coordinator = make();
    coordinator.attach(0);
    coordinator.begin_freeze();
    EXPECT_EQ(coordinator.head(0, 0), LoopHead::parked);
    Coordinator::Outcome outcome;
    coordinator.finish_freeze(outcome);
    coordinator.thaw();
    EXPECT_EQ(coordinator.freeze(0).status, FreezeStatus::timed_out);
}

TEST_F(FreezeRules, AThreadThatLeavesWhileParkedAndComesBackFindsItsSnapshotTaken) {
    Coordinator coordinator = make();
    Coordinator::Outcome outcome;
    coordinator.attach(0);
    coordinator.begin_freeze();
    EXPECT_EQ(coordinator.head(0, 0), LoopHead::parked);
    coordinator.detach(0);
    EXPECT_FALSE(coordinator.is_parked(0));
    coordinator.attach(0);
    vcpus_[0].registers = 78;
    EXPECT_EQ(coordinator.head(0, 0), LoopHead::parked);
    EXPECT_EQ(coordinator.parked_event()->edges(), 2);  // somebody may be waiting for the second answer
    coordinator.finish_freeze(outcome);
    EXPECT_EQ(outcome.snapshots[0], std::optional<std::uint64_t>(77));
    coordinator.detach(0);
    coordinator.thaw();
    EXPECT_EQ(coordinator.freeze(0).status, FreezeStatus::frozen);  // nobody is left
}

TEST_F(FreezeRules, WhoAttachesAfterAllHaveParkedDoesNotSpoilTheFreeze) {
    Coordinator coordinator = make();
    Coordinator::Outcome outcome;
    coordinator.attach(0);
    coordinator.begin_freeze();
    EXPECT_EQ(coordinator.head(0, 0), LoopHead::parked);
    EXPECT_TRUE(coordinator.wait_parked(0));
    coordinator.attach(1);
    coordinator.finish_freeze(outcome);
    EXPECT_EQ(outcome.status, FreezeStatus::frozen);
    EXPECT_EQ(outcome.snapshots, (std::vector<std::optional<std::uint64_t>>{77, {}, {}}));
    EXPECT_EQ(coordinator.head(1, 0), LoopHead::parked);  // before its first run
}

TEST_F(FreezeRules, AKillKicksAllOnceAndEndsEveryWait) {
    Coordinator coordinator = make();
    coordinator.attach(0);
    coordinator.begin_freeze();
    (void)scene().take_log();
    scene().on_wait = [&] { coordinator.kill(); };
    EXPECT_EQ(coordinator.head(0), LoopHead::killed);
    const Log log = scene().take_log();
    EXPECT_EQ(std::count(log.begin(), log.end(), "kick 0"), 1);
    EXPECT_EQ(std::count(log.begin(), log.end(), "edge"), 2);  // of the park and of the kill
    coordinator.kill();
    EXPECT_TRUE(scene().take_log().empty());
    EXPECT_TRUE(coordinator.wait_parked(0));
    Coordinator::Outcome outcome;
    coordinator.finish_freeze(outcome);
    EXPECT_EQ(outcome.status, FreezeStatus::killed);
    EXPECT_TRUE(outcome.snapshots.empty());
}

TEST_F(FreezeRules, AThreadThatCannotBeKickedIsNotAttached) {
    Coordinator coordinator = make();
    scene().refuses_threads = true;
    EXPECT_THROW(coordinator.attach(0), std::runtime_error);
    scene().refuses_threads = false;
    EXPECT_EQ(coordinator.freeze(0).status, FreezeStatus::frozen);
    coordinator.thaw();
    coordinator.attach(0);
    EXPECT_THROW(coordinator.attach(0), StateError);
}

}  // namespace
}  // namespace vmthaw
