// The watch board in every order of its steps: the code is that of Watchpoints, only its atomics and events are
// replaced. Not under sanitizers, which do not follow the checker's switches of stacks.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "freeze_model.hpp"
#include "machine/watchpoints/basic_watch_board.hpp"
#include "watch_naive.hpp"

namespace vmthaw::model {
namespace {

constexpr std::size_t kSlot = 1;

// The parts of a wish that belong together.
WatchWish wish_of(std::uint64_t which) {
    WatchWish wish;
    wish.target.guest_address = 0x1000 * which;
    wish.gate = reinterpret_cast<const std::uint32_t*>(0x100 * which);
    return wish;
}

enum class User : std::uint8_t { is_away, replaces, clears };

// Two vCPUs that fire for what they read, alone, or beside a user who asks for another address, or clears the hit.
template <typename Board>
class LatchProgram : public Program {
public:
    explicit LatchProgram(User user) : user_(user) {
        board_.event(kSlot).count_edges_in(edges_);
        board_.publish(kSlot, wish_of(1));
        for (int i = 0; i < 2; ++i) {
            world().add_thread("vCPU " + std::to_string(i), [this] { fire(); });
        }
        if (user_ != User::is_away) {
            world().add_thread("user", [this] { user_ == User::replaces ? replace() : board_.clear_hit(kSlot); });
        }
    }

    void check_end(World& end) override {
        if (end.memory(edges_) != end.memory(wins_[0]) + end.memory(wins_[1])) {
            end.fail("not one edge for each hit");
        }
        if (user_ != User::clears && (end.memory(wins_[0]) > 1 || end.memory(wins_[1]) > 1)) {
            end.fail("a request has two hits");
        }
        if (user_ == User::clears && board_.hit(kSlot) && !board_.event(kSlot).is_readable()) {
            end.fail("a hit has lost its edge");
        }
    }

private:
    static void count(std::size_t word) { world().store(word, world().memory(word) + 1); }

    void fire() {
        const auto reading = board_.read(kSlot);
        if (!reading || reading->wish.target.guest_address == 0) {
            return;
        }
        const std::size_t which = reading->wish.target.guest_address == wish_of(1).target.guest_address ? 0 : 1;
        if (which == 1) {
            count(second_fires_);
        }
        if (board_.latch(kSlot, reading->number)) {
            count(wins_.at(which));
        }
    }

    void replace() {
        board_.publish(kSlot, wish_of(2));
        if (board_.hit(kSlot) && world().memory(second_fires_) == 0) {
            world().fail("the old request has hit the new one");
        }
    }

    User user_;
    Board board_;
    std::size_t edges_ = world().add_word(0);
    std::array<std::size_t, 2> wins_{world().add_word(0), world().add_word(0)};
    std::size_t second_fires_ = world().add_word(0);
};

// A vCPU that reads while the user publishes, replaces and disarms.
template <typename Board>
class ReadProgram : public Program {
public:
    ReadProgram() {
        world().add_thread("vCPU", [this] {
            const auto reading = board_.read(kSlot);
            if (!reading) {
                return;
            }
            const std::uint64_t which = reading->wish.target.guest_address / 0x1000;
            if (which != 0 && reading->wish.gate != wish_of(which).gate) {
                world().fail("parts of two requests");
            }
        });
        world().add_thread("user", [this] {
            board_.publish(kSlot, wish_of(1));
            board_.publish(kSlot, wish_of(2));
            board_.disarm(kSlot);
        });
    }

private:
    Board board_;
};

template <typename Program, typename... Arguments>
Report explore_board(Arguments... arguments) {
    return explore({}, [=] {
        ThreadMap::current() = {};
        return std::make_unique<Program>(arguments...);
    });
}

using Ours = BasicWatchBoard<Platform<>>;
template <WatchHazard kHazard>
using Naive = NaiveWatchBoard<Platform<>, kHazard>;

void expect_clean(const Report& report) {
    EXPECT_EQ(report.violation, "") << report.text();
    EXPECT_TRUE(report.is_complete) << report.text();
    EXPECT_GT(report.states, 50U);
    ::testing::Test::RecordProperty("states", std::to_string(report.states));
}

void expect_violation(const Report& report, const std::string& what) {
    EXPECT_NE(report.violation.find(what), std::string::npos) << report.text();
}

TEST(WatchInterleavings, ARequestHasOneHitAndOneEdgeAndTheOldOneNeverHitsTheNew) {
    expect_clean(explore_board<LatchProgram<Ours>>(User::replaces));
}

TEST(WatchInterleavings, AHitThatIsClearedAtAnyTimeLosesNoEdge) {
    expect_clean(explore_board<LatchProgram<Ours>>(User::clears));
}

TEST(WatchInterleavings, AReaderGetsOneRequestOrNone) { expect_clean(explore_board<ReadProgram<Ours>>()); }

// The hazards: each is found in the naive board, so the tests above would find it in ours.

TEST(WatchHazards, ALatchThatDoesNotCompareHitsTwice) {
    expect_violation(explore_board<LatchProgram<Naive<WatchHazard::latches_without_compare>>>(User::is_away),
                     "two hits");
}

TEST(WatchHazards, WithoutNumbersTheOldRequestHitsTheNew) {
    expect_violation(explore_board<LatchProgram<Naive<WatchHazard::numbers_nothing>>>(User::replaces),
                     "has hit the new one");
}

TEST(WatchHazards, AnEdgeThatIsDrainedAfterItsHitIsClearedTakesTheNextOne) {
    expect_violation(explore_board<LatchProgram<Naive<WatchHazard::clears_before_draining>>>(User::clears),
                     "lost its edge");
}

TEST(WatchHazards, AReaderThatLooksOnceMixesTwoRequests) {
    expect_violation(explore_board<ReadProgram<Naive<WatchHazard::looks_once>>>(), "parts of two requests");
}

}  // namespace
}  // namespace vmthaw::model

#endif
