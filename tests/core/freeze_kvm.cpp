// FreezeCoordinator with real vCPUs and their threads, so that sanitizers see it.
#if defined(__x86_64__)

#include <gtest/gtest.h>
#include <linux/kvm.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "kvm/kvm.hpp"
#include "kvm/vm.hpp"
#include "machine/freeze/freeze_coordinator.hpp"
#include "machine/guest_memory.hpp"

namespace vmthaw {
namespace {

constexpr std::uint64_t kCode = 0x1000;
constexpr std::uint64_t kCounters = 0x4000;
constexpr std::uint64_t kPatience_ns = 60'000'000'000;
// loop: incw (%bx); dec %cx; jnz loop; mov $0x2000, %cx; in $0x80, %al; jmp loop
constexpr std::array<unsigned char, 12> kProgram{0xFF, 0x07, 0x49, 0x75, 0xFB, 0xB9,
                                                 0x00, 0x20, 0xE4, 0x80, 0xEB, 0xF4};

// vCPUs that count, each in a word of its own, exit now and then, and run on threads until the kill.
class FreezeKvm : public ::testing::Test {
protected:
    static constexpr std::size_t kVcpus = 4;

    void SetUp() override {
        try {
            kvm_.emplace();
        } catch (const SystemError& error) {
            GTEST_SKIP() << "no KVM: " << error.what();
        }
        vm_.emplace(kvm_->create_vm());
        const GuestRegion& region = memory_->regions().front();
        vm_->set_memory_slot({0, 0, region.host_address(), region.size_bytes, false, false});
        memory_->write(kCode, std::as_bytes(std::span(kProgram)));
        std::vector<Vcpu*> pointers;
        for (std::uint32_t i = 0; i < kVcpus; ++i) {
            vcpus_.push_back(std::make_unique<Vcpu>(vm_->create_vcpu(i)));
            pointers.push_back(vcpus_.back().get());
            kvm_sregs sregs = vcpus_.back()->sregs();
            for (kvm_segment* const segment : {&sregs.cs, &sregs.ds, &sregs.es, &sregs.ss}) {
                segment->base = 0;
                segment->selector = 0;
            }
            vcpus_.back()->set_sregs(sregs);
            kvm_regs regs{};
            regs.rip = kCode;
            regs.rbx = counter(i);
            regs.rcx = 1;
            regs.rflags = 2;
            vcpus_.back()->set_regs(regs);
        }
        coordinator_ = std::make_unique<FreezeCoordinator>(pointers, events());
        for (std::size_t i = 0; i < kVcpus; ++i) {
            threads_.emplace_back([this, i] { run(i); });
        }
        while (attached_.load() < kVcpus) {
            std::this_thread::yield();
        }
    }
    void TearDown() override {
        if (coordinator_) {
            coordinator_->kill();
        }
        for (std::thread& thread : threads_) {
            thread.join();
        }
    }
    [[nodiscard]] virtual FreezeEvents events() const { return {}; }
    static std::uint64_t counter(std::size_t index) { return kCounters + 64 * index; }
    [[nodiscard]] std::uint16_t count(std::size_t index) const {
        std::uint16_t value = 0;
        memory_->read(counter(index), std::as_writable_bytes(std::span(&value, 1)));
        return value;
    }
    void run(std::size_t index) {
        FreezeCoordinator::Attachment attachment(*coordinator_, index);
        attached_.fetch_add(1);
        while (attachment.head() == LoopHead::run) {
            if (vcpus_[index]->run().errno_value == 0) {
                exits_[index].fetch_add(1);
            }
        }
    }

    std::shared_ptr<GuestMemory> memory_ = GuestMemory::anonymous(2U << 20U);
    std::optional<Kvm> kvm_;
    std::optional<Vm> vm_;
    std::vector<std::unique_ptr<Vcpu>> vcpus_;
    std::unique_ptr<FreezeCoordinator> coordinator_;
    std::vector<std::thread> threads_;
    std::atomic<std::size_t> attached_{0};
    std::array<std::atomic<std::uint64_t>, kVcpus> exits_{};
};

TEST_F(FreezeKvm, FourVcpusTenThousandTimesWhileTheyRunAndExit) {
    constexpr int kCycles = 10'000;
    std::array<std::uint64_t, kVcpus> moved{};
    std::array<std::uint16_t, kVcpus> last{};
    for (int cycle = 0; cycle < kCycles; ++cycle) {
        const FreezeCoordinator::Outcome outcome = coordinator_->freeze(kPatience_ns);
        ASSERT_EQ(outcome.status, FreezeStatus::frozen) << "cycle " << cycle;
        for (std::size_t i = 0; i < kVcpus; ++i) {
            ASSERT_TRUE(outcome.snapshots[i].has_value()) << "cycle " << cycle;
            const std::uint64_t rip = outcome.snapshots[i]->instruction_pointer;
            ASSERT_TRUE(rip >= kCode && rip < kCode + kProgram.size()) << hex(rip);
            const std::uint16_t now = count(i);
            moved[i] += now != last[i] ? 1 : 0;
            last[i] = now;
            // Nothing moves, and what was captured on its thread is what stands there.
            if (cycle % 100 == 0) {
                const kvm_regs regs = vcpus_[i]->regs();
                ASSERT_EQ(regs.rip, rip);
                ASSERT_EQ(regs.rsp, outcome.snapshots[i]->stack_pointer);
                ASSERT_EQ(count(i), now);
            }
        }
        coordinator_->thaw();
    }
    for (std::size_t i = 0; i < kVcpus; ++i) {
        EXPECT_GT(moved[i], 0U) << "vCPU " << i << " never ran between two freezes";
        EXPECT_GT(exits_[i].load(), 0U) << "vCPU " << i << " never came to an exit";
    }
}

class FreezeKvmWithoutEvents : public FreezeKvm {
protected:
    [[nodiscard]] FreezeEvents events() const override { return {false, false, false}; }
};

TEST_F(FreezeKvmWithoutEvents, LookingAgainFindsEveryParkAndEveryThaw) {
    EXPECT_EQ(coordinator_->parked_fd(), -1);
    for (int cycle = 0; cycle < 10; ++cycle) {
        const FreezeCoordinator::Outcome outcome = coordinator_->freeze(kPatience_ns);
        ASSERT_EQ(outcome.status, FreezeStatus::frozen) << "cycle " << cycle;
        std::array<std::uint64_t, kVcpus> before{};
        for (std::size_t i = 0; i < kVcpus; ++i) {
            ASSERT_TRUE(outcome.snapshots[i].has_value()) << "cycle " << cycle;
            before.at(i) = exits_.at(i).load();
        }
        coordinator_->thaw();
        const std::uint64_t deadline_ns = monotonic_ns() + kPatience_ns;
        for (std::size_t i = 0; i < kVcpus; ++i) {
            while (exits_.at(i).load() == before.at(i)) {
                ASSERT_LT(monotonic_ns(), deadline_ns) << "vCPU " << i << " did not wake";
                std::this_thread::yield();
            }
        }
    }
    // And the kill, which TearDown sends, finds all of them parked.
    ASSERT_EQ(coordinator_->freeze(kPatience_ns).status, FreezeStatus::frozen);
}

}  // namespace
}  // namespace vmthaw

#endif
