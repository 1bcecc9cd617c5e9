#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "devices/byte_sink.hpp"
#include "devices/serial.hpp"
#include "kvm/kvm.hpp"
#include "kvm/vm.hpp"
#include "machine/buses.hpp"
#include "machine/guest_memory.hpp"
#include "machine/run_loop/run_loop.hpp"
#include "vcpu/register_snapshot.hpp"

namespace vmthaw {

// The guests of guests.S, and places in them.
#define VMTHAW_GUEST(name)                                                                  \
    extern "C" const std::byte guest_##name[];                                              \
    extern "C" const std::byte guest_##name##_end[];                                        \
    namespace guests {                                                                      \
    inline std::span<const std::byte> name() { return {guest_##name, guest_##name##_end}; } \
    }
VMTHAW_GUEST(vectors)
VMTHAW_GUEST(powers_off)
VMTHAW_GUEST(resets)
VMTHAW_GUEST(resets_by_kind)
VMTHAW_GUEST(starts_another)
VMTHAW_GUEST(waits)
VMTHAW_GUEST(says)
VMTHAW_GUEST(answers)
VMTHAW_GUEST(loads_a_pair)
VMTHAW_GUEST(loads)
VMTHAW_GUEST(stores_and_loads)
VMTHAW_GUEST(is_undefined)
VMTHAW_GUEST(goes_nowhere)
VMTHAW_GUEST(sets_registers)
VMTHAW_GUEST(counts)
VMTHAW_GUEST(asks_for_addresses)
#undef VMTHAW_GUEST
extern "C" const std::byte guest_at_the_store[];
extern "C" const std::byte guest_at_the_load[];
extern "C" const std::byte guest_after_the_load[];

// In guest-physical memory.
inline constexpr std::uint64_t kRam = 0x80000000;
inline constexpr std::uint64_t kRamBytes = 4U << 20U;
inline constexpr std::uint64_t kCode = kRam;
inline constexpr std::uint64_t kVectors = kRam + 0x10000;
inline constexpr std::uint64_t kText = kRam + 0x20000;
inline constexpr std::uint64_t kStack = kRam + 0x40000;
inline constexpr std::uint64_t kTables = kRam + 0x100000;
inline constexpr std::uint64_t kTablesEnd = kRam + 0x280000;
inline constexpr std::uint64_t kQuestions = kRam + 0x280000;
inline constexpr std::uint64_t kAnswers = kRam + 0x2C0000;
inline constexpr std::uint64_t kData = kRam + 0x3C0000;

constexpr std::uint64_t general_register(std::uint64_t number) { return 0x6030000000100000 | 2 * number; }
inline constexpr std::uint64_t kRegisterPstate = 0x6030000000100042;
inline constexpr std::uint64_t kRegisterVbar = aarch64_system_register(3, 0, 12, 0, 0);
inline constexpr std::uint64_t kRegisterEsr = aarch64_system_register(3, 0, 5, 2, 0);
inline constexpr std::uint64_t kRegisterMmfr0 = aarch64_system_register(3, 0, 0, 7, 0);
constexpr std::uint64_t vector_register(std::uint64_t number) { return 0x6040000000100054 + 4 * number; }

constexpr std::uint64_t kPatience_ns = 120'000'000'000;

// A VM under this machine's KVM: memory, vectors that reset it, vCPUs.
class LiveGuest {
public:
    explicit LiveGuest(std::uint32_t vcpus = 1);

    // At the start of memory, with every vCPU there; each has its number in x28 and 4 KiB of stack.
    void load(std::span<const std::byte> code);

    [[nodiscard]] const Kvm& kvm() const noexcept { return kvm_; }
    [[nodiscard]] Vm& vm() noexcept { return vm_; }
    [[nodiscard]] GuestMemory& memory() noexcept { return *memory_; }
    [[nodiscard]] Vcpu& vcpu(std::size_t index = 0) { return *vcpus_.at(index); }
    [[nodiscard]] std::vector<Vcpu*> vcpus() const;
    [[nodiscard]] std::uint64_t get(std::uint64_t id, std::size_t index = 0) const;
    void set(std::uint64_t id, std::uint64_t value, std::size_t index = 0) const;
    void write(std::uint64_t guest_address, std::span<const std::uint64_t> words) {
        memory_->write(guest_address, std::as_bytes(words));
    }
    [[nodiscard]] static std::uint64_t stack_of(std::size_t index) { return kStack + 0x1000 * (index + 1); }

private:
    std::shared_ptr<GuestMemory> memory_ = GuestMemory::anonymous(kRamBytes);
    Kvm kvm_;
    Vm vm_ = kvm_.create_vm();
    std::vector<std::unique_ptr<Vcpu>> vcpus_;
};

// COM1 at its place, and what the guest said there.
struct SerialBuses {
    SerialBuses();
    [[nodiscard]] std::string said();

    std::shared_ptr<OutputBuffer> output = std::make_shared<OutputBuffer>(4096);
    std::shared_ptr<Serial> serial = std::make_shared<Serial>(output);
    std::shared_ptr<Buses> buses = std::make_shared<Buses>(GuestArch::aarch64);
};

// A strict run loop over a guest's vCPUs, with a thread for each.
class LiveRun {
public:
    LiveRun(const LiveGuest& guest, const std::shared_ptr<Buses>& buses);
    ~LiveRun();  // stops it
    LiveRun(const LiveRun&) = delete;
    LiveRun& operator=(const LiveRun&) = delete;

    [[nodiscard]] RunLoop& loop() noexcept { return loop_; }
    // How it ended by itself; a test that waits for that too long has failed.
    [[nodiscard]] RunEnd wait();
    // Until every other thread of this process sleeps: with vCPUs that wait for an interrupt, in KVM_RUN.
    static void wait_asleep();

private:
    RunLoop loop_;
    std::vector<std::thread> threads_;
};

// Skips where there is no KVM.
class OnKvm : public ::testing::Test {
protected:
    void SetUp() override;
};

}  // namespace vmthaw
