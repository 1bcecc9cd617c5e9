#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/error.hpp"
#include "machine/guest_memory.hpp"
#include "machine/machine.hpp"
#include "machine/snapshot/memory_file.hpp"
#include "machine/snapshot/snapshot.hpp"

// The machine without Python, so that sanitizers see it: runs, kicks, snapshots.
namespace vmthaw {
namespace {

using payload::Command;
using payload::Report;
using payload::Workload;

constexpr std::uint64_t kMemory = 4U << 20U;
constexpr std::uint64_t kPages = kMemory / payload::kPageBytes - payload::kFirstWorkPage;
constexpr std::uint64_t kSlice_ns = 20'000'000;

class MachineRun : public testing::Test {
protected:
    void SetUp() override {
        try {
            const Kvm kvm;
        } catch (const SystemError& error) {
            GTEST_SKIP() << "no KVM: " << error.what();
        }
        machine_ = std::make_unique<Machine>(GuestMemory::anonymous(kMemory));
        machine_->load_payload();
        workload_.seed = 3;
        workload_.zero_share = payload::kShareOne / 4;
    }

    static Report finish(Machine& machine) {
        for (int slice = 0; slice < 1000; ++slice) {
            if (const std::optional<Report> report = machine.continue_command(kSlice_ns)) {
                return *report;
            }
        }
        throw StateError("the guest does not answer");
    }
    [[nodiscard]] Command command(payload::Operation operation, std::uint64_t count = 0) const {
        return {operation, payload::kFirstWorkPage, kPages, count, payload::kSequential, 1, 0, workload_};
    }
    [[nodiscard]] Report perform(Machine& machine, payload::Operation operation, std::uint64_t count = 0) const {
        machine.start_command(command(operation, count));
        return finish(machine);
    }

    std::unique_ptr<Machine> machine_;
    Workload workload_{};
};

TEST_F(MachineRun, TheGuestFillsAndFindsEveryWordRight) {
    EXPECT_EQ(perform(*machine_, payload::kFill).pages, kPages);
    const Report report = perform(*machine_, payload::kVerify);
    EXPECT_EQ(report.status, payload::kOk);
    EXPECT_EQ(report.words, kPages * payload::kWordsPerPage);
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
            Machine machine(GuestMemory::anonymous(kMemory));
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

class MachineSnapshot : public MachineRun {
protected:
    void SetUp() override {
        MachineRun::SetUp();
        if (!IsSkipped()) {
            std::string name = (std::filesystem::temp_directory_path() / "vmthaw-XXXXXX").string();
            ASSERT_NE(::mkdtemp(name.data()), nullptr);
            folder_ = name;
        }
    }
    void TearDown() override { std::filesystem::remove_all(folder_); }

    std::filesystem::path folder_ = "/nonexistent";
    const std::atomic<bool> go_on_{false};
};

TEST_F(MachineSnapshot, ARestoredMachineHoldsWhatWasSaved) {
    (void)perform(*machine_, payload::kFill);
    const std::uint64_t checksum = perform(*machine_, payload::kVerify).checksum;
    save_snapshot(*machine_, folder_, workload_, go_on_);
    const MachineState state = load_state(folder_);
    EXPECT_EQ(state.memory_bytes, kMemory);
    const auto memory = GuestMemory::anonymous(state.memory_bytes);
    read_memory_file(*memory, folder_ / kMemoryFileName, go_on_);
    const MemoryContent content = content_of_memory(*memory, go_on_);
    EXPECT_EQ(content, (MemoryContent{state.memory_data_pages, state.memory_fingerprint}));
    Machine restored(memory);
    restored.restore_vcpus(state.vcpus, state.busy, state.sequence);
    EXPECT_EQ(perform(restored, payload::kVerify).checksum, checksum);
    EXPECT_THROW(save_snapshot(restored, folder_, workload_, go_on_), SystemError);
}

TEST_F(MachineSnapshot, ACancelledSaveLeavesNothingBehind) {
    const std::atomic<bool> cancelled{true};
    EXPECT_THROW(save_snapshot(*machine_, folder_, workload_, cancelled), SystemError);
    EXPECT_TRUE(std::filesystem::is_empty(folder_));
    EXPECT_EQ(perform(*machine_, payload::kPing).status, payload::kOk);
}

TEST_F(MachineSnapshot, TheFingerprintKnowsEveryWordAndEveryPlace) {
    const auto memory = GuestMemory::anonymous(kMemory);
    const MemoryContent empty = content_of_memory(*memory, go_on_);
    EXPECT_EQ(empty, MemoryContent{});
    std::uint64_t previous = 0;
    for (std::uint64_t word = 0; word < payload::kWordsPerPage; ++word) {
        const std::span<std::byte> byte = memory->at(9 * payload::kPageBytes + word * 8 + word % 8, 1);
        byte[0] = std::byte{1};
        const MemoryContent content = content_of_memory(*memory, go_on_);
        EXPECT_EQ(content.data_pages, 1U);
        EXPECT_NE(content.fingerprint, previous) << word;
        previous = content.fingerprint;
        byte[0] = std::byte{0};
        if (word == 16) {
            break;  // four lanes, four rounds: the rest repeats
        }
    }
    memory->at(5 * payload::kPageBytes, 1)[0] = std::byte{7};
    const std::uint64_t here = content_of_memory(*memory, go_on_).fingerprint;
    memory->at(5 * payload::kPageBytes, 1)[0] = std::byte{0};
    memory->at(6 * payload::kPageBytes, 1)[0] = std::byte{7};
    EXPECT_NE(content_of_memory(*memory, go_on_).fingerprint, here);
}

}  // namespace
}  // namespace vmthaw
