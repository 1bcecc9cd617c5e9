#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <memory>
#include <string>

#include "machine/snapshot/memory_file.hpp"
#include "machine/snapshot/snapshot_file.hpp"
#include "machine/snapshot/snapshot_writer.hpp"
#include "machine_support.hpp"

// Snapshots and diffs without Python.
namespace vmthaw {
namespace {

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

    std::filesystem::path sub(const char* name) const {
        const std::filesystem::path folder = folder_ / name;
        std::filesystem::create_directories(folder);
        return folder;
    }
    void save(const std::filesystem::path& folder, bool diff) {
        SnapshotWriter writer(machine_, folder, workload_, diff);
        {
            const Machine::Hold hold(*machine_);
            writer.write(hold, go_on_);
        }
        writer.commit();
    }
    // Of a base and its diff, as a restore reads them.
    std::shared_ptr<GuestMemory> read(const std::filesystem::path& base, const std::filesystem::path& diff) const {
        auto memory = GuestMemory::anonymous(kMachineMemory);
        read_memory_file(*memory, base / kMemoryFileName, go_on_);
        read_diff(*memory, load_state(diff).changed_pages, diff / kDiffFileName, go_on_);
        return memory;
    }
    [[nodiscard]] MemoryContent content_of(const GuestMemory& memory) const {
        return content_of_memory(memory, go_on_);
    }

    std::filesystem::path folder_ = "/nonexistent";
    const std::atomic<bool> go_on_{false};
};

TEST_F(MachineSnapshot, ARestoredMachineHoldsWhatWasSaved) {
    (void)perform(*machine_, payload::kFill);
    const std::uint64_t checksum = perform(*machine_, payload::kVerify).checksum;
    save(folder_, false);
    const MachineState state = load_state(folder_);
    EXPECT_EQ(state.memory_bytes, kMachineMemory);
    const auto memory = GuestMemory::anonymous(state.memory_bytes);
    read_memory_file(*memory, folder_ / kMemoryFileName, go_on_);
    const MemoryContent content = content_of_memory(*memory, go_on_);
    EXPECT_EQ(content, (MemoryContent{state.memory_data_pages, state.memory_fingerprint}));
    Machine restored(memory);
    restored.restore(state);
    EXPECT_EQ(perform(restored, payload::kVerify).checksum, checksum);
    EXPECT_THROW(SnapshotWriter(machine_, folder_, workload_, false), SystemError);  // there is one
}

#if defined(__x86_64__)
TEST_F(MachineSnapshot, ARestoredVcpuHasTheDebugRegistersTheStateComponentsAndTheEventsOfTheSaved) {
    const Vcpu& saved = machine_->vcpu(0);
    kvm_debugregs debug = saved.debugregs();
    for (std::size_t i = 0; i < std::size(debug.db); ++i) {
        debug.db[i] = 0x1000 * (i + 1) + i;
    }
    debug.dr6 |= 0x4001;  // BS, B0
    debug.dr7 = 0x700;    // LE and GE, and nothing armed
    saved.set_debugregs(debug);
    kvm_xcrs xcrs = saved.xcrs();
    ASSERT_EQ(xcrs.xcrs[0].value, 1U);
    xcrs.xcrs[0].value = 3;  // x87 and SSE
    saved.set_xcrs(xcrs);
    kvm_vcpu_events events = saved.vcpu_events();
    events.exception.injected = 1;
    events.exception.nr = 13;  // a general protection fault under way
    events.exception.has_error_code = 1;
    events.exception.error_code = 0x18;
    events.nmi.masked = 1;
    events.interrupt.shadow = KVM_X86_SHADOW_INT_STI;
    saved.set_vcpu_events(events);
    save(folder_, false);
    const kvm_vcpu_events before = saved.vcpu_events();
    EXPECT_EQ(before.exception.nr * before.exception.injected, 13);
    EXPECT_EQ(before.nmi.masked, 1);
    EXPECT_NE(before.interrupt.shadow & KVM_X86_SHADOW_INT_STI, 0);  // kvm_amd has one shadow for both kinds

    Machine restored(GuestMemory::anonymous(kMachineMemory));
    restored.restore(load_state(folder_));
    const Vcpu& vcpu = restored.vcpu(0);
    const kvm_debugregs debug_after = vcpu.debugregs();
    EXPECT_EQ(std::memcmp(&debug_after, &debug, sizeof debug), 0) << debug_after.dr6 << " " << debug_after.dr7;
    EXPECT_EQ(vcpu.xcrs().xcrs[0].value, 3U);
    const kvm_vcpu_events after = vcpu.vcpu_events();
    EXPECT_EQ(std::memcmp(&after, &before, sizeof before), 0)
        << int{after.exception.injected} << int{after.nmi.masked} << int{after.interrupt.shadow};
}
#endif

TEST_F(MachineSnapshot, ACancelledSaveLeavesNothingBehind) {
    const std::atomic<bool> cancelled{true};
    SnapshotWriter writer(machine_, folder_, workload_, false);
    EXPECT_THROW(writer.write(Machine::Hold(*machine_), cancelled), SystemError);
    EXPECT_TRUE(std::filesystem::is_empty(folder_));
    EXPECT_EQ(perform(*machine_, payload::kPing).status, payload::kOk);
}

TEST_F(MachineSnapshot, TheFingerprintKnowsEveryWordAndEveryPlace) {
    const auto memory = GuestMemory::anonymous(kMachineMemory);
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

TEST_F(MachineSnapshot, ADiffOverItsBaseIsTheMachine) {
    (void)perform(*machine_, payload::kFill);
    save(sub("base"), false);
    const std::array<std::byte, 3> bytes{std::byte{1}, std::byte{2}, std::byte{3}};
    machine_->memory()->write(700 * payload::kPageBytes - 1, bytes);
    workload_.rewrite_count = 1;
    workload_.rewrites[0] = {5, payload::kShareOne / 10, payload::kFirstWorkPage, kWorkPages};
    (void)perform(*machine_, payload::kRewrite);
    save(sub("diff"), true);
    const MachineState state = load_state(folder_ / "diff");
    EXPECT_EQ(state.base, load_state(folder_ / "base").identity);
    EXPECT_EQ(count_pages(state.changed_pages), state.memory_data_pages);
    EXPECT_LT(state.memory_data_pages, kWorkPages / 4);
    EXPECT_EQ(content_of(*read(folder_ / "base", folder_ / "diff")), content_of(*machine_->memory()));
}

TEST_F(MachineSnapshot, WhatAnAbandonedDiffHadTakenIsInTheNext) {
    save(sub("base"), false);
    (void)perform(*machine_, payload::kFill);
    {
        SnapshotWriter writer(machine_, sub("abandoned"), workload_, true);
        writer.write(Machine::Hold(*machine_), go_on_);
        EXPECT_GE(writer.pages(), kWorkPages / 2);
    }
    EXPECT_TRUE(std::filesystem::is_empty(folder_ / "abandoned"));
    {
        SnapshotWriter writer(machine_, sub("cancelled"), workload_, true);
        const std::atomic<bool> cancelled{true};
        EXPECT_THROW(writer.write(Machine::Hold(*machine_), cancelled), SystemError);
    }
    save(sub("diff"), true);
    EXPECT_EQ(content_of(*read(folder_ / "base", folder_ / "diff")), content_of(*machine_->memory()));
}

TEST_F(MachineSnapshot, OneWriterAtATimeHasTheMachine) {
    save(sub("base"), false);
    SnapshotWriter first(machine_, sub("first"), workload_, true);
    EXPECT_THROW(SnapshotWriter(machine_, sub("second"), workload_, true), StateError);
    first.abandon();
    EXPECT_THROW(first.write(Machine::Hold(*machine_), go_on_), StateError);
    save(sub("second"), true);
    EXPECT_THROW(first.commit(), StateError);
}

TEST_F(MachineSnapshot, ADiffThatWasRefusedLeavesTheMachineToOthers) {
    EXPECT_THROW(SnapshotWriter(machine_, sub("diff"), workload_, true), StateError);  // no base
    EXPECT_THROW(SnapshotWriter(machine_, folder_ / "missing", workload_, false), SystemError);
    save(sub("base"), false);
    save(sub("diff"), true);
}

}  // namespace
}  // namespace vmthaw
