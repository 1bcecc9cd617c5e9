#include "machine/dispatcher.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "allocation_counter.hpp"
#include "devices/i8042.hpp"
#include "devices/serial.hpp"
#include "devices/virtio_mmio.hpp"

namespace vmthaw {
namespace {

constexpr std::size_t kDataOffset = 4096;

template <typename Payload>
std::vector<std::byte> mapping_of(std::uint32_t reason, const Payload& payload) {
    std::vector<std::byte> mapping(12288);
    std::memcpy(mapping.data() + kKvmRunExitReason, &reason, sizeof reason);
    std::memcpy(mapping.data() + kKvmRunPayload, &payload, sizeof payload);
    return mapping;
}

std::shared_ptr<Buses> pc() {
    auto buses = std::make_shared<Buses>(GuestArch::x86_64);
    StandardDevices devices;
    devices.com1 = std::make_shared<Serial>(std::make_shared<OutputBuffer>(4096));
    devices.keyboard = std::make_shared<I8042>();
    devices.console = std::make_shared<VirtioMmio>(make_idle_console());
    buses->add_standard(devices);
    return buses;
}

TEST(Dispatcher, AllocatesNothingWhileItHandlesExits) {
    const Dispatcher dispatcher(ExitProfile::strict, pc());
    std::vector<std::vector<std::byte>> mappings = {
        mapping_of(kKvmExitIo, KvmRunIo{1, 1, 0x3F8, 100, kDataOffset}),
        mapping_of(kKvmExitIo, KvmRunIo{0, 1, 0x3FD, 100, kDataOffset}),
        mapping_of(kKvmExitIo, KvmRunIo{0, 4, 0xCFC, 1, kDataOffset}),
        mapping_of(kKvmExitMmio, KvmRunMmio{0xC0000000, {}, 4, 0}),
        mapping_of(kKvmExitMmio, KvmRunMmio{0xC0000070, {1}, 4, 1}),
        mapping_of(kKvmExitMmio, KvmRunMmio{0x1000, {}, 8, 0}),
        mapping_of(kKvmExitHlt, 0),
        mapping_of(kKvmExitInternalError, KvmRunInternalError{1, 3, {}}),
        mapping_of(34, 0),
        mapping_of(99, 0),
    };
    const std::uint64_t before = allocations_of_this_thread();
    for (std::vector<std::byte>& mapping : mappings) {
        const Exit exit = classify_exit(ExitProfile::strict, GuestArch::x86_64, 0, 0, mapping);
        EXPECT_EQ(dispatcher.handle(exit, mapping), exit.action);
        EXPECT_EQ(dispatcher.perform(exit, mapping), exit.action);
    }
    EXPECT_EQ(allocations_of_this_thread(), before);
}

TEST(Dispatcher, SaysWhichDeviceFailedAndThatTheMachineCannotGoOn) {
    class Failing final : public Device {
    public:
        DeviceOutcome read(std::uint64_t /*offset*/, std::span<std::uint8_t> /*out*/) noexcept override {
            return DeviceOutcome::failed;
        }
        DeviceOutcome write(std::uint64_t /*offset*/, std::span<const std::uint8_t> /*data*/) noexcept override {
            return DeviceOutcome::failed;
        }
    };
    const auto buses = pc();
    buses->ports().add(0x500, 1, std::make_shared<Failing>(), "broken port");
    buses->mmio().add(0x1000, 8, std::make_shared<Failing>(), "broken window");
    const Dispatcher dispatcher(ExitProfile::strict, buses);
    const auto failure = [&](std::vector<std::byte> mapping) {
        const BusWindow* failed = nullptr;
        const Exit exit = decode_exit(GuestArch::x86_64, 0, 0, mapping);
        const ExitAction action = dispatcher.handle(exit, mapping, &failed);
        EXPECT_EQ(action, (ExitAction{ExitActionKind::fatal, {}}));
        return failed != nullptr ? failed->name : "";
    };
    EXPECT_EQ(failure(mapping_of(kKvmExitIo, KvmRunIo{0, 1, 0x500, 1, kDataOffset})), "broken port");
    EXPECT_EQ(failure(mapping_of(kKvmExitIo, KvmRunIo{1, 1, 0x500, 1, kDataOffset})), "broken port");
    EXPECT_EQ(failure(mapping_of(kKvmExitMmio, KvmRunMmio{0x1000, {}, 4, 0})), "broken window");
    EXPECT_EQ(failure(mapping_of(kKvmExitMmio, KvmRunMmio{0x1000, {}, 4, 1})), "broken window");
    const BusWindow* failed = buses->ports().find(0x500);
    auto fine = mapping_of(kKvmExitMmio, KvmRunMmio{0xC0000000, {}, 4, 0});
    EXPECT_EQ(dispatcher.handle(decode_exit(GuestArch::x86_64, 0, 0, fine), fine, &failed).kind,
              ExitActionKind::continue_);
    EXPECT_EQ(failed, nullptr);
}

TEST(Dispatcher, WritesAnAnswerOnlyWhereItBelongs) {
    const Dispatcher dispatcher(ExitProfile::strict, pc());
    auto mapping = mapping_of(kKvmExitIo, KvmRunIo{0, 2, 0x3F8, 3, kDataOffset});
    const auto before = mapping;
    const Exit exit = decode_exit(GuestArch::x86_64, 0, 0, mapping);
    EXPECT_EQ(dispatcher.handle(exit, mapping).kind, ExitActionKind::continue_);
    for (std::size_t i = 0; i < mapping.size(); ++i) {
        if (i < kDataOffset || i >= kDataOffset + 6) {
            ASSERT_EQ(mapping[i], before[i]) << i;
        }
    }
    EXPECT_EQ(mapping[kDataOffset + 1], std::byte{0xFF});  // beside a device of one byte
}

}  // namespace
}  // namespace vmthaw
