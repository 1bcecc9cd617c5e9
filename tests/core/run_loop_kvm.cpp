// RunLoop with real vCPUs while other threads freeze them, take records, look at counters, use the devices and end the
// run. Under the thread sanitizer these tests are about data races.
#if defined(__x86_64__)

#include <gtest/gtest.h>
#include <linux/kvm.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "devices/byte_sink.hpp"
#include "devices/serial.hpp"
#include "kvm/kvm.hpp"
#include "kvm/vm.hpp"
#include "machine/guest_memory.hpp"
#include "machine/run_loop/run_loop.hpp"

namespace vmthaw {
namespace {

constexpr std::uint64_t kCode = 0x1000;
constexpr std::uint64_t kEndingCode = 0x2000;
constexpr std::uint64_t kCounters = 0x4000;
constexpr std::uint64_t kComPort = 0x3F8;
constexpr std::uint64_t kHandledPort = 0x80;
constexpr std::uint64_t kWindow = 0xD0000000;  // where ES begins
constexpr std::uint64_t kKvmPatience_ns = 60'000'000'000;
constexpr std::size_t kVcpus = 4;

constexpr std::array<unsigned char, 26> kProgram{0xFF, 0x07,              // loop: incw (%bx), a word of each vCPU's own
                                                 0xBA, 0xF8, 0x03, 0xEE,  // mov $0x3F8, %dx; out %al, (%dx)
                                                 0xE4, 0x80,              // in $0x80, %al
                                                 0x88, 0xC4,              // mov %al, %ah
                                                 0x26, 0xA2, 0x10, 0x00,  // mov %al, %es:0x10
                                                 0x26, 0xA0, 0x10, 0x00,  // mov %es:0x10, %al
                                                 0xB9, 0x80, 0x00,        // mov $0x80, %cx
                                                 0x49, 0x75, 0xFD,        // dec %cx; jnz .-1
                                                 0xEB, 0xE6};             // jmp loop
// mov $0x100, %cx; dec %cx; jnz .-1; mov $0xFE, %al; out %al, $0x64 (a reset); hlt
constexpr std::array<unsigned char, 11> kEnding{0xB9, 0x00, 0x01, 0x49, 0x75, 0xFD, 0xB0, 0xFE, 0xE6, 0x64, 0xF4};

// Counts what comes, as a device does that several vCPUs use at once.
class CountingDevice final : public Device {
public:
    [[nodiscard]] DeviceOutcome read(std::uint64_t /*offset*/, std::span<std::uint8_t> out) noexcept override {
        out.front() = last.load();
        reads.fetch_add(1);
        return DeviceOutcome::done;
    }
    [[nodiscard]] DeviceOutcome write(std::uint64_t /*offset*/, std::span<const std::uint8_t> data) noexcept override {
        last.store(data.front());
        writes.fetch_add(1);
        return DeviceOutcome::done;
    }
    std::atomic<std::uint64_t> reads{0};
    std::atomic<std::uint64_t> writes{0};
    std::atomic<std::uint8_t> last{0};
};

// Looks, and leaves every second exit to the dispatcher.
class EverySecond final : public ExitHandler {
public:
    [[nodiscard]] std::optional<ExitAction> handle(std::size_t vcpu, const Exit& /*exit*/, Vcpu& /*target*/,
                                                   std::size_t /*entry*/) noexcept override {
        if (asked.at(vcpu).fetch_add(1) % 2 == 0) {
            return std::nullopt;
        }
        return ExitAction{ExitActionKind::continue_, {}};
    }
    std::array<std::atomic<std::uint64_t>, kVcpus> asked{};
};

class RunLoopKvm : public ::testing::Test {
protected:
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
        memory_->write(kEndingCode, std::as_bytes(std::span(kEnding)));
        for (std::uint32_t i = 0; i < kVcpus; ++i) {
            vcpus_.push_back(std::make_unique<Vcpu>(vm_->create_vcpu(i)));
            pointers_.push_back(vcpus_.back().get());
            kvm_sregs sregs = vcpus_.back()->sregs();
            for (kvm_segment* const segment : {&sregs.cs, &sregs.ds, &sregs.es, &sregs.ss}) {
                segment->base = 0;
                segment->selector = 0;
            }
            sregs.es.base = kWindow;
            vcpus_.back()->set_sregs(sregs);
            place(i, kCode);
        }
        auto buses = std::make_shared<Buses>(GuestArch::x86_64);
        buses->add_standard({.com1 = serial_, .com2 = {}, .keyboard = {}, .console = {}, .block = {}, .net = {}});
        buses->mmio().add(kWindow, 0x1000, device_, "counter");
        dispatcher_ = std::make_shared<Dispatcher>(ExitProfile::strict, buses);
    }
    void TearDown() override { end_threads(); }

    void place(std::uint32_t index, std::uint64_t rip) {
        kvm_regs regs{};
        regs.rip = rip;
        regs.rbx = counter(index);
        regs.rflags = 2;
        vcpus_[index]->set_regs(regs);
    }
    void start(const RunLoopOptions& options) {
        ExitFilter filter;
        (void)filter.add_ports(kHandledPort, kHandledPort);
        handler_ = std::make_shared<EverySecond>();
        loop_ = std::make_unique<RunLoop>(pointers_, dispatcher_, std::move(filter), handler_, options);
        for (std::size_t i = 0; i < kVcpus; ++i) {
            threads_.emplace_back([this, i] { loop_->run_vcpu(i); });
        }
    }
    // `work` again and again on a thread of its own, until the run has ended.
    template <typename Work>
    void beside(Work work) {
        threads_.emplace_back([this, work]() mutable {
            while (!loop_->end()) {
                work();
                std::this_thread::yield();
            }
        });
    }
    void end_threads() {
        if (loop_) {
            loop_->stop();
        }
        for (std::thread& thread : threads_) {
            thread.join();
        }
        threads_.clear();
    }
    // True when each vCPU has been through the whole of kProgram, which has two port accesses.
    [[nodiscard]] bool wait_until_all_went_round() const {
        const std::uint64_t deadline = deadline_ns(kKvmPatience_ns);
        for (std::size_t i = 0; i < kVcpus; ++i) {
            const std::uint64_t enough = loop_->counters(i).exits(kIo) + 4;
            while (loop_->counters(i).exits(kIo) < enough) {
                if (monotonic_ns() > deadline) {
                    return false;
                }
                std::this_thread::yield();
            }
        }
        return true;
    }
    static std::uint64_t counter(std::size_t index) { return kCounters + 64 * index; }
    [[nodiscard]] std::uint16_t count(std::size_t index) const {
        std::uint16_t value = 0;
        memory_->read(counter(index), std::as_writable_bytes(std::span(&value, 1)));
        return value;
    }
    [[nodiscard]] std::uint64_t exits(std::uint32_t reason) const {
        std::uint64_t sum = 0;
        for (std::size_t i = 0; i < kVcpus; ++i) {
            sum += loop_->counters(i).exits(reason);
        }
        return sum;
    }
    [[nodiscard]] std::uint64_t asked() const {
        std::uint64_t sum = 0;
        for (const auto& number : handler_->asked) {
            sum += number.load();
        }
        return sum;
    }
    std::uint64_t take_records() {
        ExitRecord record;
        std::uint64_t taken = 0;
        while (loop_->records()->pop(record)) {
            taken += 1;
            is_record_right_ = is_record_right_ && record.vcpu < kVcpus && record.t_enter_ns <= record.t_exit_ns &&
                               record.t_exit_ns <= record.t_decided_ns && record.error == 0;
        }
        return taken;
    }

    static constexpr std::uint32_t kIo = 2;
    static constexpr std::uint32_t kMmio = 6;

    std::shared_ptr<GuestMemory> memory_ = GuestMemory::anonymous(2U << 20U);
    std::shared_ptr<OutputBuffer> output_ = std::make_shared<OutputBuffer>(4096);
    std::shared_ptr<Serial> serial_ = std::make_shared<Serial>(output_);
    std::shared_ptr<CountingDevice> device_ = std::make_shared<CountingDevice>();
    std::shared_ptr<EverySecond> handler_;
    std::shared_ptr<Dispatcher> dispatcher_;
    std::optional<Kvm> kvm_;
    std::optional<Vm> vm_;
    std::vector<std::unique_ptr<Vcpu>> vcpus_;
    std::vector<Vcpu*> pointers_;
    std::unique_ptr<RunLoop> loop_;
    std::vector<std::thread> threads_;
    std::atomic<bool> is_record_right_{true};
};

TEST_F(RunLoopKvm, FourVcpusWhileOthersFreezeThemTakeRecordsUseTheDevicesAndStop) {
    constexpr int kCycles = 200;
    start({.record_capacity = 256, .record_registers = true});
    ASSERT_TRUE(loop_->wait_begun(kKvmPatience_ns));
    std::atomic<std::uint64_t> taken{0};
    std::atomic<std::uint64_t> received{0};
    std::atomic<std::uint64_t> sent{0};
    std::atomic<std::uint64_t> backwards{0};
    beside([&] { taken += take_records(); });
    beside([&] {
        (void)serial_->receive(std::array<std::uint8_t, 2>{1, 2});
        (void)serial_->registers();
        received += output_->take(64).size();
    });
    std::array<std::uint64_t, kVcpus> runs{};
    beside([this, runs, &backwards]() mutable {
        for (std::size_t i = 0; i < kVcpus; ++i) {
            const std::uint64_t now = vcpus_[i]->runs();
            backwards += now < runs.at(i) ? 1 : 0;
            runs.at(i) = now;
            (void)(loop_->guest_ns(i) + loop_->host_ns(i) + loop_->counters(i).interruptions());
            (void)loop_->freezer().is_parked(i);
        }
    });
    std::array<std::uint64_t, kVcpus> moved{};
    std::array<std::uint16_t, kVcpus> last{};
    for (int cycle = 0; cycle < kCycles; ++cycle) {
        const FreezeCoordinator::Outcome outcome = loop_->freezer().freeze(kKvmPatience_ns);
        ASSERT_EQ(outcome.status, FreezeStatus::frozen) << "cycle " << cycle;
        // Every exit has been answered, counted and recorded, and no other comes.
        const std::uint64_t mmio = exits(kMmio);
        ASSERT_EQ(mmio, device_->reads.load() + device_->writes.load()) << "cycle " << cycle;
        for (std::size_t i = 0; i < kVcpus; ++i) {
            ASSERT_TRUE(outcome.snapshots[i].has_value()) << "cycle " << cycle;
            const std::uint64_t rip = outcome.snapshots[i]->instruction_pointer;
            ASSERT_TRUE(rip >= kCode && rip < kCode + kProgram.size()) << hex(rip);
            ASSERT_EQ(vcpus_[i]->regs().rip, rip);
            const std::uint16_t now = count(i);
            moved.at(i) += now != last.at(i) ? 1 : 0;
            last.at(i) = now;
        }
        ASSERT_EQ(exits(kMmio), mmio) << "cycle " << cycle;
        loop_->freezer().thaw();
        if (cycle % 20 == 0) {  // freezes that follow each other closely may leave a vCPU no turn
            ASSERT_TRUE(wait_until_all_went_round()) << "cycle " << cycle;
        }
    }
    std::thread one([this] { loop_->stop(); });
    std::thread other([this] { loop_->stop(); });
    one.join();
    other.join();
    ASSERT_TRUE(loop_->wait(kKvmPatience_ns));
    end_threads();
    EXPECT_EQ(loop_->end()->kind, RunEndKind::stopped);
    taken += take_records();
    received += output_->take(4096).size();
    EXPECT_EQ(exits(kMmio), device_->reads.load() + device_->writes.load());
    EXPECT_EQ(taken.load() + loop_->records()->dropped(), exits(kIo) + exits(kMmio));
    EXPECT_EQ(received.load() + output_->dropped_bytes(), exits(kIo) - asked()) << "of what the guests sent";
    EXPECT_TRUE(is_record_right_.load());
    EXPECT_EQ(backwards.load(), 0U);
    for (std::size_t i = 0; i < kVcpus; ++i) {
        EXPECT_GT(moved.at(i), 0U) << "vCPU " << i << " never ran between two freezes";
        EXPECT_EQ(loop_->counters(i).handled(), handler_->asked.at(i).load());
        EXPECT_GE(vcpus_[i]->runs(), loop_->counters(i).exits(kIo) + loop_->counters(i).exits(kMmio));
    }
}

TEST_F(RunLoopKvm, TheTimeInWhichAVcpuIsParkedIsNeitherTheGuestsNorTheHosts) {
    constexpr int kFreezes = 5;
    const std::uint64_t begin_ns = monotonic_ns();
    start({});
    ASSERT_TRUE(loop_->wait_begun(kKvmPatience_ns));
    std::uint64_t parked_ns = 0;
    for (int i = 0; i < kFreezes; ++i) {
        const std::uint64_t before = exits(kIo);
        while (exits(kIo) == before) {
            std::this_thread::yield();
        }
        ASSERT_EQ(loop_->freezer().freeze(kKvmPatience_ns).status, FreezeStatus::frozen);
        const std::uint64_t frozen_ns = monotonic_ns();
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
        parked_ns += monotonic_ns() - frozen_ns;
        loop_->freezer().thaw();
    }
    end_threads();
    const std::uint64_t whole_ns = monotonic_ns() - begin_ns;
    for (std::size_t i = 0; i < kVcpus; ++i) {
        EXPECT_LE(loop_->guest_ns(i) + loop_->host_ns(i), whole_ns - parked_ns) << "vCPU " << i;
        EXPECT_GT(loop_->guest_ns(i), 0U);
    }
}

TEST_F(RunLoopKvm, TheEndOfOneVcpuEndsAllWhileOthersAreFrozenOrStopped) {
    constexpr int kRounds = 25;
    int shutdowns = 0;
    for (int round = 0; round < kRounds; ++round) {
        // What the last round's end left unfinished is finished before the registers are set.
        for (const auto& vcpu : vcpus_) {
            ASSERT_EQ(vcpu->drain(), 0);
        }
        place(0, kEndingCode);
        start({});
        ASSERT_TRUE(loop_->wait_begun(kKvmPatience_ns));
        if (round % 2 == 0) {
            beside([this] {
                if (loop_->freezer().freeze(kKvmPatience_ns).status == FreezeStatus::frozen) {
                    loop_->freezer().thaw();
                }
            });
        } else if (round % 4 == 1) {
            threads_.emplace_back([this] { loop_->stop(); });
        }
        ASSERT_TRUE(loop_->wait(kKvmPatience_ns)) << "round " << round;
        const RunEnd end = *loop_->end();
        ASSERT_TRUE(end.kind == RunEndKind::shutdown || (end.kind == RunEndKind::stopped && round % 4 == 1));
        shutdowns += end.kind == RunEndKind::shutdown ? 1 : 0;
        ASSERT_EQ(end.vcpu, 0U);
        end_threads();
    }
    EXPECT_GE(shutdowns, kRounds / 2);
}

}  // namespace
}  // namespace vmthaw

#endif
