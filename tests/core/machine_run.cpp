#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "machine_support.hpp"

// Runs and kicks of a machine.
namespace vmthaw {
namespace {

using payload::Report;

TEST_F(MachineRun, TheGuestFillsAndFindsEveryWordRight) {
    EXPECT_EQ(perform(*machine_, payload::kFill).pages, kWorkPages);
    const Report report = perform(*machine_, payload::kVerify);
    EXPECT_EQ(report.status, payload::kOk);
    EXPECT_EQ(report.words, kWorkPages * payload::kWordsPerPage);
}

TEST_F(MachineRun, TheGuestFindsOneFlippedBit) {
    (void)perform(*machine_, payload::kFill);
    const std::uint64_t address = payload::guest_address_of(payload::kFirstWorkPage + 100) + 8;
    machine_->memory()->at(address, 1)[0] ^= std::byte{1};
    const Report report = perform(*machine_, payload::kVerify);
    EXPECT_EQ(report.status, payload::kMismatch);
    EXPECT_EQ(report.mismatches, 1U);
    EXPECT_EQ(report.wrong_address, address);
    EXPECT_EQ(report.expected ^ report.found, 1U);
}

TEST_F(MachineRun, ASliceEndsAndTheGuestGoesOn) {
    machine_->start_command(command(payload::kSpin, 1U << 26U));
    EXPECT_FALSE(machine_->continue_command(1'000'000));
    EXPECT_TRUE(machine_->is_busy());
    EXPECT_EQ(finish(*machine_).iterations, 1U << 26U);
    EXPECT_THROW((void)machine_->continue_command(kSlice_ns), StateError);
}

TEST_F(MachineRun, ASliceOfNoTimeAtAllEnds) {
    machine_->start_command(command(payload::kSpin));
    for (int i = 0; i < 50; ++i) {
        EXPECT_FALSE(machine_->continue_command(0));
    }
}

TEST_F(MachineRun, ManyMachinesRunOnThreadsOfTheirOwn) {
    std::atomic<int> good{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
        threads.emplace_back([&] {
            Machine machine(GuestMemory::anonymous(kMachineMemory));
            machine.load_payload();
            (void)perform(machine, payload::kFill);
            for (int round = 0; round < 5; ++round) {
                good += perform(machine, payload::kVerify).status == payload::kOk ? 1 : 0;
            }
        });
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    EXPECT_EQ(good.load(), 20);
}

TEST_F(MachineRun, OfTwoThreadsOneIsRefused) {
    machine_->start_command(command(payload::kSpin));
    std::atomic<bool> stop{false};
    std::atomic<int> refused{0};
    const auto run = [&] {
        while (!stop.load()) {
            try {
                (void)machine_->continue_command(kSlice_ns);
            } catch (const StateError&) {
                ++refused;
                stop = true;
            }
        }
    };
    std::thread one(run);
    std::thread other(run);
    one.join();
    other.join();
    EXPECT_GE(refused.load(), 1);
}

}  // namespace
}  // namespace vmthaw
