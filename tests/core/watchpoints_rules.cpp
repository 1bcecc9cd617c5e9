// Watchpoints without a KVM: a file in the vCPU's place, whose exits are written by hand and whose ioctls all fail.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/error.hpp"
#include "base/unique_fd.hpp"
#include "kvm/vcpu.hpp"
#include "machine/guest_memory.hpp"
#include "machine/watchpoints/read_only_pages.hpp"
#include "machine/watchpoints/watchpoints.hpp"

namespace vmthaw {
namespace {

Vcpu broken_vcpu() {
    constexpr std::size_t kBytes = 12288;
    UniqueFd fd(::memfd_create("no vCPU", MFD_CLOEXEC));
    if (::ftruncate(fd.get(), kBytes) != 0) {
        throw SystemError(errno, "ftruncate");
    }
    return {std::move(fd), kBytes, 0};
}

bool is_readable(int fd) {
    pollfd polled{fd, POLLIN, 0};
    return ::poll(&polled, 1, 0) == 1;
}
std::uint64_t edges(int fd) {
    std::uint64_t count = 0;
    return ::read(fd, &count, sizeof count) == static_cast<ssize_t>(sizeof count) ? count : 0;
}

class WatchpointsRules : public ::testing::Test {
protected:
    WatchWish write_to(std::uint64_t offset, WatchBackend backend = WatchBackend::read_only_page) {
        WatchWish wish;
        wish.target = {0xFFFF'8000'0000'5000 + offset, WatchKind::write};
        wish.bytes = page_.data() + offset;
        wish.guest_physical = physical_ + offset;
        wish.backend = backend;
        return wish;
    }
    // A store that comes out as MMIO.
    WatchAnswer store(std::uint64_t address, std::initializer_list<std::uint8_t> data, Watchpoints& watchpoints) {
        Exit exit;
        exit.has_reason = true;
        exit.reason = kKvmExitMmio;
        MmioExit mmio;
        mmio.guest_address = address;
        mmio.is_write = true;
        mmio.size_bytes = static_cast<std::uint8_t>(data.size());
        std::copy(data.begin(), data.end(), mmio.data.begin());
        exit.payload = mmio;
        watchpoints.prepare(0, vcpu_);
        RunResult outcome;
        return watchpoints.handle(0, vcpu_, exit, outcome);
    }
    std::uint8_t byte_at(std::size_t offset) const { return std::to_integer<std::uint8_t>(page_[offset]); }

    std::shared_ptr<GuestMemory> memory_ = GuestMemory::anonymous(2U << 20U);
    const std::uint64_t physical_ = memory_->regions().front().guest_address + 0x5000;
    std::span<std::byte> page_ = memory_->at(physical_, 4096);
    Vcpu vcpu_ = broken_vcpu();
    Watchpoints watchpoints_{1, {}, memory_};
};

TEST_F(WatchpointsRules, AnAddressThatIsNotAMultipleOfFourIsRefused) {
    WatchWish wish = write_to(8);
    wish.target.guest_address += 2;
    EXPECT_THROW(watchpoints_.set(1, wish), ArgumentError);
    wish.target.kind = WatchKind::execute;
    wish.backend = WatchBackend::hardware;
    EXPECT_NO_THROW(watchpoints_.set(1, wish));
}

TEST_F(WatchpointsRules, WhatCannotBeServedIsRefused) {
    WatchWish wish = write_to(8);
    EXPECT_THROW(watchpoints_.set(4, wish), ArgumentError);
    wish.target.guest_address = 0;
    EXPECT_THROW(watchpoints_.set(1, wish), ArgumentError);
    wish = write_to(8);
    wish.bytes = nullptr;
    EXPECT_THROW(watchpoints_.set(1, wish), ArgumentError);
    wish = write_to(8, WatchBackend::none);
    EXPECT_THROW(watchpoints_.set(1, wish), ArgumentError);
    wish = write_to(8);
    wish.target.kind = WatchKind::execute;
    EXPECT_THROW(watchpoints_.set(1, wish), ArgumentError);
    wish = write_to(8);
    wish.gate = reinterpret_cast<const std::uint32_t*>(page_.data() + 2);
    EXPECT_THROW(watchpoints_.set(0, wish), ArgumentError);
    EXPECT_EQ(watchpoints_.requested(), 0U);
    EXPECT_FALSE(watchpoints_.any_armed());
    Watchpoints without_memory(1);
    EXPECT_THROW(without_memory.set(1, write_to(8)), ArgumentError);
    EXPECT_NO_THROW(without_memory.set(1, write_to(8, WatchBackend::hardware)));
}

TEST_F(WatchpointsRules, TheAnyArmedGateIsFalseAtFirstAndStays) {
    EXPECT_FALSE(watchpoints_.any_armed());
    watchpoints_.set(2, write_to(0));
    EXPECT_TRUE(watchpoints_.any_armed());
    watchpoints_.disarm(2);
    EXPECT_TRUE(watchpoints_.any_armed());
    EXPECT_EQ(watchpoints_.requested(), 0U);
}

TEST_F(WatchpointsRules, LatchingTwiceGivesOneEdge) {
    EXPECT_TRUE(watchpoints_.latch(2));
    EXPECT_FALSE(watchpoints_.latch(2));
    EXPECT_TRUE(watchpoints_.hit(2));
    EXPECT_FALSE(watchpoints_.hit(1));
    EXPECT_EQ(edges(watchpoints_.hit_eventfd(2)), 1U);
    EXPECT_FALSE(is_readable(watchpoints_.hit_eventfd(2)));
}

TEST_F(WatchpointsRules, ASlotOutOfRangeDoesNothing) {
    EXPECT_FALSE(watchpoints_.latch(4));
    EXPECT_FALSE(watchpoints_.latch(~std::size_t{0}));
    for (std::size_t slot = 0; slot < kWatchSlots; ++slot) {
        EXPECT_FALSE(watchpoints_.hit(slot));
    }
    EXPECT_THROW((void)watchpoints_.hit(4), ArgumentError);
    EXPECT_THROW((void)watchpoints_.hit_eventfd(4), ArgumentError);
}

TEST_F(WatchpointsRules, AClearedHitLatchesAgainAndADisarmTakesTheHitAway) {
    watchpoints_.set(1, write_to(0));
    (void)watchpoints_.latch(1);
    watchpoints_.clear_hit(1);
    EXPECT_FALSE(watchpoints_.hit(1));
    EXPECT_FALSE(is_readable(watchpoints_.hit_eventfd(1)));
    EXPECT_TRUE(watchpoints_.latch(1));
    watchpoints_.disarm(1);
    EXPECT_FALSE(watchpoints_.hit(1));
    watchpoints_.set(1, write_to(0));
    EXPECT_FALSE(is_readable(watchpoints_.hit_eventfd(1)));
}

TEST_F(WatchpointsRules, AStoreToTheWatchedBytesIsAppliedLatchedAndTold) {
    watchpoints_.set(1, write_to(0x10));
    page_[0x11] = std::byte{0x77};
    EXPECT_NE(store(physical_ + 0x10, {1, 2}, watchpoints_), WatchAnswer::not_ours);
    EXPECT_EQ(byte_at(0x10), 1);
    EXPECT_EQ(byte_at(0x11), 2);
    EXPECT_TRUE(watchpoints_.hit(1));
    EXPECT_EQ(edges(watchpoints_.hit_eventfd(1)), 1U);
    WatchEvent event;
    ASSERT_TRUE(watchpoints_.events().pop(event));
    EXPECT_EQ(event.kind, WatchEventKind::write);
    EXPECT_EQ(event.slot, 1);
    EXPECT_EQ(event.guest_address, 0xFFFF'8000'0000'5010U);
    EXPECT_EQ(event.before, 0x7700U);
    EXPECT_EQ(event.after, 0x0201U);
    EXPECT_TRUE(event.has_latched);
    EXPECT_FALSE(event.has_instruction_pointer);  // this vCPU gives no registers
}

TEST_F(WatchpointsRules, AStoreBesideTheWatchedBytesIsAppliedAndNoEvent) {
    watchpoints_.set(1, write_to(0x10));
    (void)store(physical_ + 0x0C, {1, 2, 3, 4}, watchpoints_);
    (void)store(physical_ + 0x14, {5}, watchpoints_);
    EXPECT_EQ(byte_at(0x0C), 1);
    EXPECT_EQ(byte_at(0x14), 5);
    EXPECT_FALSE(watchpoints_.hit(1));
    WatchEvent event;
    EXPECT_FALSE(watchpoints_.events().pop(event));
}

TEST_F(WatchpointsRules, AStoreAcrossTheEdgeOfTheWatchedBytesIsOne) {
    watchpoints_.set(1, write_to(0x10));
    (void)store(physical_ + 0x0D, {1, 2, 3, 4}, watchpoints_);  // its last byte
    watchpoints_.clear_hit(1);
    (void)store(physical_ + 0x13, {9}, watchpoints_);
    EXPECT_TRUE(watchpoints_.hit(1));
    EXPECT_EQ(byte_at(0x10), 4);
    EXPECT_EQ(byte_at(0x13), 9);
}

TEST_F(WatchpointsRules, AStoreToAnotherPageOrBehindTheEndIsNotOurs) {
    watchpoints_.set(1, write_to(0xFFC));
    EXPECT_EQ(store(physical_ + 0x1000, {1}, watchpoints_), WatchAnswer::not_ours);
    EXPECT_EQ(store(physical_ - 1, {1}, watchpoints_), WatchAnswer::not_ours);
    EXPECT_EQ(store(physical_ + 0xFFE, {1, 2, 3, 4}, watchpoints_), WatchAnswer::not_ours);
    EXPECT_EQ(byte_at(0xFFE), 0);
    EXPECT_NE(store(physical_ + 0xFFE, {1, 2}, watchpoints_), WatchAnswer::not_ours);
    EXPECT_EQ(byte_at(0xFFF), 2);
}

TEST_F(WatchpointsRules, SeveralSlotsOfOneStoreLatchAll) {
    watchpoints_.set(1, write_to(0x20));
    watchpoints_.set(3, write_to(0x24));
    (void)store(physical_ + 0x20, {1, 2, 3, 4, 5, 6, 7, 8}, watchpoints_);
    EXPECT_TRUE(watchpoints_.hit(1));
    EXPECT_FALSE(watchpoints_.hit(2));
    EXPECT_TRUE(watchpoints_.hit(3));
    EXPECT_EQ(byte_at(0x27), 8);
}

TEST_F(WatchpointsRules, SlotZeroLatchesFromTheThresholdOnAndSeesWhatItsOwnStoreMadeOfTheGate) {
    WatchWish wish = write_to(0x40);
    wish.gate = reinterpret_cast<const std::uint32_t*>(page_.data() + 0x40);
    watchpoints_.set(0, wish);
    (void)store(physical_ + 0x40, {0xFF, 0x03, 0, 0}, watchpoints_);  // 1023
    EXPECT_FALSE(watchpoints_.hit(0));
    (void)store(physical_ + 0x40, {0x00, 0x04, 0, 0}, watchpoints_);  // 1024
    EXPECT_TRUE(watchpoints_.hit(0));
}

TEST_F(WatchpointsRules, AGateIsANumberWithoutASign) {
    WatchWish wish = write_to(0x40);
    wish.gate = reinterpret_cast<const std::uint32_t*>(page_.data() + 0x40);
    watchpoints_.set(0, wish);
    (void)store(physical_ + 0x40, {0, 0, 0, 0x80}, watchpoints_);
    EXPECT_TRUE(watchpoints_.hit(0));
}

TEST_F(WatchpointsRules, TheThresholdOfSlotZeroIs1024UnlessAnotherIsGiven) {
    EXPECT_EQ(WatchOptions{}.gate_threshold, 1024U);
    Watchpoints watchpoints(1, {.gate_threshold = 10}, memory_);
    WatchWish wish = write_to(0x40);
    wish.gate = reinterpret_cast<const std::uint32_t*>(page_.data() + 0x40);
    watchpoints.set(0, wish);
    (void)store(physical_ + 0x40, {9, 0, 0, 0}, watchpoints);
    EXPECT_FALSE(watchpoints.hit(0));
    (void)store(physical_ + 0x40, {10, 0, 0, 0}, watchpoints);
    EXPECT_TRUE(watchpoints.hit(0));
}

TEST_F(WatchpointsRules, SlotZeroWithoutAGateNeverLatches) {
    watchpoints_.set(0, write_to(0x40));
    (void)store(physical_ + 0x40, {0xFF, 0xFF, 0xFF, 0xFF}, watchpoints_);
    EXPECT_FALSE(watchpoints_.hit(0));
    EXPECT_EQ(byte_at(0x43), 0xFF);
}

TEST_F(WatchpointsRules, AnExitIsNobodysWhereNothingWasEverAskedFor) {
    Exit exit;
    exit.has_reason = true;
    exit.reason = kKvmExitDebug;
    exit.payload = DebugExit{1, 0, 0xFFFF0FF1, 0, 0, 0};
    watchpoints_.prepare(0, vcpu_);
    RunResult outcome;
    EXPECT_EQ(watchpoints_.handle(0, vcpu_, exit, outcome), WatchAnswer::not_ours);
}

TEST_F(WatchpointsRules, ArmingThatFailsThriceLeavesTheSlotUnarmed) {
    watchpoints_.set(1, write_to(0, WatchBackend::hardware));
    for (int i = 0; i < 5; ++i) {
        watchpoints_.prepare(0, vcpu_);
    }
    EXPECT_EQ(watchpoints_.requested(), 0b0010U);
    EXPECT_EQ(watchpoints_.armed(), 0U);
    EXPECT_FALSE(watchpoints_.wait_armed(1'000'000));
}

TEST_F(WatchpointsRules, OthersVcpusAreRefused) {
    EXPECT_THROW(watchpoints_.step(1, 1), ArgumentError);
    EXPECT_THROW((void)watchpoints_.foreign(1), ArgumentError);
    EXPECT_THROW(Watchpoints(0), ArgumentError);
}

TEST(CutMemorySlot, LeavesTheSlotWholeWithoutPages) {
    const MemorySlot slot{3, 0x10000, 0x7000'0000, 0x8000, false, false};
    const auto pieces = cut_memory_slot(slot, {});
    ASSERT_EQ(pieces.size(), 1U);
    EXPECT_EQ(pieces[0].guest_address, slot.guest_address);
    EXPECT_EQ(pieces[0].size_bytes, slot.size_bytes);
    EXPECT_FALSE(pieces[0].read_only);
}

TEST(CutMemorySlot, MakesEachPageReadOnlyAndKeepsEveryByteOnce) {
    const MemorySlot slot{3, 0x10000, 0x7000'0000, 0x8000, false, false};
    for (const std::vector<std::uint64_t>& pages :
         {std::vector<std::uint64_t>{0x10000}, {0x17000}, {0x12000}, {0x12000, 0x13000}, {0x10000, 0x15000, 0x17000}}) {
        std::uint64_t at = slot.guest_address;
        std::size_t read_only = 0;
        for (const MemorySlot& piece : cut_memory_slot(slot, pages)) {
            EXPECT_EQ(piece.guest_address, at);
            EXPECT_EQ(piece.host_address - slot.host_address, piece.guest_address - slot.guest_address);
            EXPECT_NE(piece.size_bytes, 0U);
            if (piece.read_only) {
                EXPECT_EQ(piece.size_bytes, 4096U);
                EXPECT_EQ(piece.guest_address, pages.at(read_only++));
            }
            at += piece.size_bytes;
        }
        EXPECT_EQ(at, slot.guest_address + slot.size_bytes);
        EXPECT_EQ(read_only, pages.size());
    }
}

TEST(CutMemorySlot, LogsDirtyPagesWhereTheSlotDoesAndTheGuestCanWrite) {
    const MemorySlot slot{3, 0x10000, 0x7000'0000, 0x8000, false, true};
    for (const MemorySlot& piece : cut_memory_slot(slot, {0x12000, 0x17000})) {
        EXPECT_EQ(piece.log_dirty_pages, !piece.read_only) << piece.guest_address;
    }
    EXPECT_TRUE(cut_memory_slot(slot, {}).at(0).log_dirty_pages);
}

}  // namespace
}  // namespace vmthaw
