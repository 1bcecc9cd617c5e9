// The freeze protocol in every order of its steps. The code is that of FreezeCoordinator; only what it stands on is
// replaced. Not under sanitizers, which do not follow the checker's switches of stacks: there, real threads run it
// (freeze_stress.cpp).
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "freeze_model.hpp"
#include "freeze_naive.hpp"
#include "machine/freeze/basic_freeze_coordinator.hpp"

namespace vmthaw::model {
namespace {

struct Shape {
    std::size_t vcpus = 1;
    unsigned cycles = 1;
    unsigned exits = 0;  // of each guest, at any time
    bool late_kicks_are_wrong = false;
    bool second_killer = false;   // a thread that calls kill() at any time
    bool vcpu_leaves = false;     // the first vCPU's thread ends after its first run
    bool lets_all_leave = false;  // nothing is asked for before all have left their park
    bool impatient = false;       // parked vCPUs look at other things at any time
    bool vcpu_returns = false;    // the first one's thread leaves while it is parked, once, and comes back
};

// vCPU threads that run their guests until they are killed, and one that freezes, looks, thaws, and kills at the end.
template <typename Coordinator>
class FreezeProgram : public Program {
public:
    FreezeProgram(const Shape& shape, unsigned time_outs) : shape_(shape), time_outs_(time_outs) {
        ground_.late_kicks_are_wrong = shape.late_kicks_are_wrong;
        ThreadMap::current() = {};
        ThreadMap::current().ground = &ground_;
        std::vector<Vcpu*> pointers;
        for (std::size_t i = 0; i < shape.vcpus; ++i) {
            vcpus_.push_back(std::make_unique<Vcpu>(ground_, i, shape.exits));
            ThreadMap::current().vcpus.at(i) = vcpus_.back().get();
            pointers.push_back(vcpus_.back().get());
        }
        coordinator_ = std::make_unique<Coordinator>(pointers);
        coordinator_->parked_event()->count_edges_in(ground_.edges_less_parks);
        outcome_.snapshots.reserve(shape.vcpus);
        outcome_.not_parked.reserve(shape.vcpus);
        for (std::size_t i = 0; i < shape.vcpus; ++i) {
            coordinator_->attach(i);
            world().add_thread("vCPU " + std::to_string(i), [this, i] { run_vcpu(i); });
        }
        world().add_thread("coordinator", [this] { coordinate(); });
        if (shape.second_killer) {
            world().add_thread("killer", [this] { kill(); });
        }
    }

    void check_end(World& end) override {
        // A second park for the same request has an edge, and no second capture.
        const std::uint64_t more = end.memory(ground_.edges_less_parks);
        if (more > (shape_.vcpu_returns ? 1U : 0U)) {
            end.fail("not one edge for each park");
        }
    }

private:
    void run_vcpu(std::size_t index) {
        for (;;) {
            const LoopHead next = coordinator_->head(index, shape_.impatient ? 1 : Coordinator::kForever_ns);
            if (next == LoopHead::killed) {
                return;
            }
            if (next == LoopHead::parked) {
                if (index == 0 && world().memory(returns_left_) != 0) {
                    world().store(returns_left_, 0);
                    coordinator_->detach(index);
                    coordinator_->attach(index);
                }
                continue;
            }
            (void)vcpus_[index]->run();
            if (shape_.vcpu_leaves && index == 0) {
                coordinator_->detach(index);
                return;
            }
            world().forget_all_but(index);
        }
    }

    void kill() {
        world().store(ground_.wanted, 1);
        coordinator_->kill();
    }

    void coordinate() {
        for (unsigned cycle = 0; cycle < shape_.cycles; ++cycle) {
            ground_.cycle = cycle;
            world().forget_all_but(cycle);
            world().store(ground_.wanted, 1);
            world().store(ground_.now_ns, 0);
            coordinator_->begin_freeze();
            (void)coordinator_->wait_parked(1000);
            coordinator_->finish_freeze(outcome_);
            look();
            if (outcome_.status == FreezeStatus::frozen) {
                world().store(ground_.frozen, 0);
                if (!shape_.second_killer) {
                    world().store(ground_.wanted, 0);
                }
                coordinator_->thaw();
                if (shape_.lets_all_leave) {
                    wait_for_all_to_leave();
                }
            }
        }
        kill();
    }

    void wait_for_all_to_leave() {
        const auto have_left = [this](unsigned) {
            return std::none_of(vcpus_.begin(), vcpus_.end(), [](const auto& vcpu) { return vcpu->is_parked(); });
        };
        world().step("waiting for all to leave", 1, have_left, [](unsigned) { return 0U; });
    }

    void look() {
        if (outcome_.status != FreezeStatus::frozen) {
            if (!outcome_.snapshots.empty()) {
                world().fail("something was read after a time-out");
            }
            if (outcome_.status == FreezeStatus::timed_out && (outcome_.not_parked.empty() || time_outs_ == 0)) {
                world().fail("a time-out that names nobody, or without time passing");
            }
            if (outcome_.status == FreezeStatus::killed && !shape_.second_killer) {
                world().fail("killed by nobody");
            }
            return;
        }
        for (std::size_t i = 0; i < vcpus_.size(); ++i) {
            if (shape_.second_killer && !outcome_.snapshots[i]) {
                continue;  // killed meanwhile
            }
            if (vcpus_[i]->is_in_guest()) {
                world().fail("frozen while a vCPU is in the guest");
            }
            const bool may_be_away = shape_.vcpu_leaves || shape_.vcpu_returns;
            if (outcome_.snapshots[i] ? *outcome_.snapshots[i] != vcpus_[i]->registers() : !may_be_away) {
                world().fail("a snapshot is not the vCPU's state");
            }
        }
        world().store(ground_.frozen, 1);
    }

    Shape shape_;
    unsigned time_outs_;
    Ground ground_;
    std::size_t returns_left_ = world().add_word(shape_.vcpu_returns ? 1 : 0);
    std::vector<std::unique_ptr<Vcpu>> vcpus_;
    std::unique_ptr<Coordinator> coordinator_;
    FreezeOutcome<std::uint64_t> outcome_;
};

template <typename Coordinator>
Report explore_freeze(const Shape& shape, const Options& options) {
    return explore(options, [&] { return std::make_unique<FreezeProgram<Coordinator>>(shape, options.time_outs); });
}

using Ours = BasicFreezeCoordinator<Platform<>>;
template <Hazard kHazard>
using Naive = NaiveCoordinator<Platform<>, kHazard>;

void expect_clean(const Shape& shape, const Options& options) {
    const Report report = explore_freeze<Ours>(shape, options);
    EXPECT_EQ(report.violation, "") << report.text();
    EXPECT_TRUE(report.is_complete) << report.text();
    EXPECT_GT(report.states, 100U);
    ::testing::Test::RecordProperty("states", std::to_string(report.states));
}

void expect_violation(const Report& report, const std::string& what) {
    EXPECT_NE(report.violation.find(what), std::string::npos) << report.text();
}

TEST(FreezeInterleavings, OneVcpuFrozenThreeTimesWhileItsGuestExits) { expect_clean({1, 3, 2}, {}); }

TEST(FreezeInterleavingsOfTwo, VcpusFrozenAtOnce) { expect_clean({2, 1, 0}, {.prompt_signals = true}); }

TEST(FreezeInterleavings, StoresThatStayInTheirBufferLoseNoKick) { expect_clean({1, 2, 1}, {.store_buffers = true}); }

TEST(FreezeInterleavings, ATimeOutReadsNothingAndTheNextFreezeWorks) { expect_clean({1, 2, 1}, {.time_outs = 2}); }

TEST(FreezeInterleavings, AKillAtAnyTimeEndsEverything) {
    expect_clean({1, 1, 1, false, true}, {});
    expect_clean({1, 2, 0, false, true}, {.prompt_signals = true});
}

TEST(FreezeInterleavingsOfTwo, OneWhoseThreadEndsIsNotWaitedFor) {
    expect_clean({2, 1, 0, false, false, true}, {.prompt_signals = true});
}

TEST(FreezeInterleavings, AVcpuThatComesBackFromItsParkAtAnyTimeLosesNothing) {
    Shape shape{1, 2, 1};
    shape.impatient = true;
    expect_clean(shape, {.prompt_signals = true});
}

TEST(FreezeInterleavings, AVcpuThatLeavesItsParkAndReturnsDisturbsNobody) {
    Shape shape{1, 2, 1};
    shape.impatient = true;
    shape.vcpu_returns = true;
    expect_clean(shape, {.prompt_signals = true});
}

TEST(FreezeInterleavings, NoKickOfAFreezeCancelsARunAfterIt) {
    expect_clean({1, 3, 1, true}, {.prompt_signals = true});
}

// The hazards: each is found in the naive ordering, so the tests above would find it in ours.

TEST(FreezeHazards, AnswersClearedAfterTheFlagLoseAFastParker) {
    expect_violation(explore_freeze<Naive<Hazard::clears_answers_late>>({1, 1, 1}, {}), "deadlock");
}

TEST(FreezeHazards, AnAnswerToTheLastFreezeCountsForThisOne) {
    expect_violation(explore_freeze<Naive<Hazard::reuses_answers>>({1, 2, 0}, {}), "snapshot");
}

TEST(FreezeHazards, LookingBeforeClearingLosesTheKick) {
    // The signal came before KVM_RUN, so it does not end it either.
    expect_violation(explore_freeze<Naive<Hazard::looks_before_clearing>>({1, 1, 0}, {}), "deadlock");
}

TEST(FreezeHazards, AKickThatStaysCancelsTheNextRun) {
    expect_violation(explore_freeze<Naive<Hazard::keeps_a_late_kick>>({1, 1, 1, true}, {.prompt_signals = true}),
                     "late kick");
}

TEST(FreezeHazards, ACaptureWithoutTheDrainIsStale) {
    expect_violation(explore_freeze<Naive<Hazard::captures_without_drain>>({1, 1, 1}, {}), "before the drain");
}

TEST(FreezeHazards, ASharedThawEventWakesOnlyOne) {
    Shape shape{2, 1, 0};
    shape.lets_all_leave = true;
    expect_violation(explore_freeze<Naive<Hazard::shares_the_thaw_event>>(shape, {.prompt_signals = true}), "deadlock");
    EXPECT_EQ(explore_freeze<Ours>(shape, {.prompt_signals = true}).violation, "");
}

TEST(FreezeHazards, AThawEventThatNobodyDrainsMakesTheNextParkSpin) {
    expect_violation(explore_freeze<BasicFreezeCoordinator<Platform<true, false>>>({1, 2, 0}, {}), "spins");
}

TEST(FreezeHazards, WithoutTheFenceAStoreInItsBufferUndoesTheKick) {
    expect_violation(explore_freeze<BasicFreezeCoordinator<Platform<false, true>>>({1, 2, 1}, {.store_buffers = true}),
                     "deadlock");
}

}  // namespace
}  // namespace vmthaw::model

#endif
