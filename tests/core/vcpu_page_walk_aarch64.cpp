#include <gtest/gtest.h>

#include <cstdint>

#include "base/error.hpp"
#include "page_walk_support.hpp"
#include "vcpu/page_walk.hpp"

namespace vmthaw {
namespace {

using namespace walk_test;

// TCR_EL1: T0SZ and T1SZ, the granules' codes, IPS.
std::uint64_t tcr(unsigned t0sz, unsigned t1sz, std::uint64_t tg0, std::uint64_t tg1, std::uint64_t ips = 5) {
    return t0sz | std::uint64_t{t1sz} << 16U | tg0 << 14U | tg1 << 30U | ips << 32U;
}
PagingState aarch64(std::uint64_t ttbr0, std::uint64_t ttbr1, std::uint64_t control) {
    PagingState state;
    state.arch = GuestArch::aarch64;
    state.ttbr0 = ttbr0;
    state.ttbr1 = ttbr1;
    state.tcr = control;
    return state;
}
constexpr std::uint64_t kAf = 1U << 10U;
constexpr std::uint64_t kReadOnly = 1U << 7U;
constexpr std::uint64_t kEl0 = 1U << 6U;
constexpr std::uint64_t kPxn = std::uint64_t{1} << 53U;
constexpr std::uint64_t kUxn = std::uint64_t{1} << 54U;

TEST(PageWalkAarch64, Granule4KiBByBothRoots) {
    Physical memory;
    const std::uint64_t address = 0x0000'1234'5678'9ABC;
    for (const std::uint64_t root : {0x1'0000, 0x2'0000}) {
        memory.put(root + 8 * (address >> 39U & 511U), (root + 0x1000) | 3);
        memory.put(root + 0x1000 + 8 * (address >> 30U & 511U), (root + 0x2000) | 3);
        memory.put(root + 0x2000 + 8 * (address >> 21U & 511U), (root + 0x3000) | 3);
        memory.put(root + 0x3000 + 8 * (address >> 12U & 511U), (root << 8U) | kAf | kPxn | kEl0 | 3);
    }
    // ASID and CnP are no address.
    const PagingState state = aarch64(0x1'0000 | 1 | std::uint64_t{7} << 48U, 0x2'0000, tcr(16, 16, 0, 2));
    const PageTranslation page = found(state, memory, address);
    EXPECT_EQ(page.guest_physical, 0x100'0ABCU);
    EXPECT_EQ(page.page_bytes, 4096U);
    EXPECT_EQ(page.permissions, (PagePermissions{true, true, false, true}));
    EXPECT_TRUE(page.accessed);
    EXPECT_EQ(found(state, memory, address | 0xFFFF'0000'0000'0000).guest_physical, 0x200'0ABCU);
    EXPECT_EQ(failed(state, memory, address | 0x00FF'0000'0000'0000), "not canonical 0");
    EXPECT_EQ(failed(state, memory, address | 0xFF00'0000'0000'0000), "not canonical 0");
    // With TBI0 the top byte is ignored, by the lower half alone.
    PagingState tagged = state;
    tagged.tcr |= std::uint64_t{1} << 37U;
    EXPECT_EQ(found(tagged, memory, address | 0xA500'0000'0000'0000).guest_physical, 0x100'0ABCU);
    EXPECT_EQ(failed(tagged, memory, address | 0xA5FF'0000'0000'0000), "not canonical 0");
    tagged.tcr |= 1U << 7U;  // EPD0
    EXPECT_EQ(failed(tagged, memory, address), "walks disabled 0");
    EXPECT_EQ(found(tagged, memory, address | 0xFFFF'0000'0000'0000).guest_physical, 0x200'0ABCU);
}

TEST(PageWalkAarch64, FewerBitsBeginAtALowerLevel) {
    Physical memory;
    // 39 bits: level 1 is the top.
    memory.put(0x1'0000 + 8 * 3, (std::uint64_t{9} << 30U) | kAf | 1);  // a block of 1 GiB
    memory.put(0x1'0000 + 8 * 4, 0x1'1000 | 3);
    memory.put(0x1'1000, (std::uint64_t{5} << 21U) | kAf | kReadOnly | kUxn | 1);  // a block of 2 MiB
    memory.put(0x1'1008, (std::uint64_t{5} << 21U) | kAf | 1);
    const PagingState state = aarch64(0x1'0000, 0, tcr(25, 25, 0, 2));
    EXPECT_EQ(found(state, memory, (std::uint64_t{3} << 30U) + 0x123).guest_physical,
              (std::uint64_t{9} << 30U) + 0x123U);
    const PageTranslation block = found(state, memory, (std::uint64_t{4} << 30U) + 0x1'2345);
    EXPECT_EQ(block.guest_physical, (std::uint64_t{5} << 21U) + 0x1'2345U);
    EXPECT_EQ(block.page_bytes, 0x20'0000U);
    EXPECT_EQ(block.permissions, (PagePermissions{false, false, true, false}));
    EXPECT_EQ(failed(state, memory, std::uint64_t{5} << 30U), "not present 1");
    EXPECT_EQ(failed(state, memory, std::uint64_t{1} << 39U), "not canonical 0");
    // 36 bits: 64 entries at the top, and a table that needs no more alignment than their 512 bytes.
    memory.put(0x1'2200 + 8 * 63, (std::uint64_t{7} << 30U) | kAf | 1);
    EXPECT_EQ(found(aarch64(0x1'2200, 0, tcr(28, 25, 0, 2)), memory, std::uint64_t{63} << 30U).guest_physical,
              std::uint64_t{7} << 30U);
}

TEST(PageWalkAarch64, TablesTakeAwayPermissionsUnlessHpdSaysNo) {
    Physical memory;
    // APTable: no writes and no EL0; PXNTable.
    memory.put(0x1'0000, 0x1'1000 | 3 | std::uint64_t{3} << 61U | std::uint64_t{1} << 59U);
    memory.put(0x1'1000, kAf | kEl0 | 1);
    PagingState state = aarch64(0x1'0000, 0, tcr(25, 25, 0, 2));
    EXPECT_EQ(found(state, memory, 0).permissions, (PagePermissions{false, false, false, true}));
    state.tcr |= std::uint64_t{1} << 41U;
    EXPECT_EQ(found(state, memory, 0).permissions, (PagePermissions{true, true, true, true}));
}

TEST(PageWalkAarch64, Granule16KiB) {
    Physical memory;
    const std::uint64_t address = 0x0000'0012'3456'789A;  // 47 bits: level 1 is the top
    memory.put(0x10'0000 + 8 * (address >> 36U & 2047U), 0x10'4000 | 3);
    memory.put(0x10'4000 + 8 * (address >> 25U & 2047U), 0x10'8000 | 3);
    memory.put(0x10'8000 + 8 * (address >> 14U & 2047U), 0x7654'C000 | kAf | 3);
    const PagingState state = aarch64(0x10'0000, 0, tcr(17, 17, 2, 1));
    const PageTranslation page = found(state, memory, address);
    EXPECT_EQ(page.guest_physical, 0x7654'C000U + (address & 0x3FFFU));
    EXPECT_EQ(page.page_bytes, 16384U);
    memory.put(0x10'4000, (std::uint64_t{3} << 25U) | kAf | 1);
    EXPECT_EQ(found(state, memory, (address & ~((std::uint64_t{1} << 36U) - 1)) | 0x1234).page_bytes, 1U << 25U);
    memory.put(0x10'0000, (std::uint64_t{1} << 36U) | kAf | 1);  // no blocks at level 1
    EXPECT_EQ(failed(state, memory, 0), "reserved bits 1");
}

TEST(PageWalkAarch64, Granule64KiBWith52BitsOfOutput) {
    Physical memory;
    const std::uint64_t address = 0x0000'0123'4567'89AB;  // 42 bits: level 2 is the top
    memory.put(0x10'0000 + 8 * (address >> 29U & 8191U), 0x20'0000 | 3);
    memory.put(0x20'0000 + 8 * (address >> 16U & 8191U), 0x1234'0000 | 0xA000 | kAf | 3);
    PagingState state = aarch64(0x10'0000, 0, tcr(22, 22, 1, 3, 6));
    EXPECT_EQ(found(state, memory, address).guest_physical, 0x000A'0000'1234'89ABU);
    EXPECT_EQ(found(state, memory, address).page_bytes, 65536U);
    state.tcr = tcr(22, 22, 1, 3, 5);  // 48 bits: those are no address
    EXPECT_EQ(found(state, memory, address).guest_physical, 0x1234'89ABU);
}

TEST(PageWalkAarch64, FiftyTwoBitsWithDsBeginAtLevelMinusOne) {
    Physical memory;
    const std::uint64_t address = 0x000F'1234'5678'9ABC;
    memory.put(0x1'0000 + 8 * (address >> 48U & 15U), 0x1'1000 | 3);
    memory.put(0x1'1000 + 8 * (address >> 39U & 511U), 0x1'2000 | 3);
    memory.put(0x1'2000 + 8 * (address >> 30U & 511U), 0x1'3000 | 3);
    memory.put(0x1'3000 + 8 * (address >> 21U & 511U), 0x1'4000 | 3);
    // Bits 51 and 50 of the address are bits 9 and 8.
    memory.put(0x1'4000 + 8 * (address >> 12U & 511U), 0x9876'5000 | 0x300 | kAf | 3);
    PagingState state = aarch64(0x1'0000, 0, tcr(12, 16, 0, 2, 6) | std::uint64_t{1} << 59U);
    EXPECT_EQ(found(state, memory, address).guest_physical, 0x000C'0000'9876'5ABCU);
    state.tcr &= ~(std::uint64_t{1} << 59U);
    EXPECT_EQ(failed(state, memory, address), "bad configuration 0");
}

TEST(PageWalkAarch64, AnOutputBeyondItsSizeIsRefused) {
    Physical memory;
    memory.put(0x1'0000, (std::uint64_t{1} << 36U) | kAf | 1);
    EXPECT_EQ(failed(aarch64(0x1'0000, 0, tcr(25, 25, 0, 2, 1)), memory, 0), "address size 1");
    EXPECT_EQ(found(aarch64(0x1'0000, 0, tcr(25, 25, 0, 2, 2)), memory, 0).guest_physical, std::uint64_t{1} << 36U);
}

TEST(PageWalkAarch64, ConfigurationsThatMeanNothingAreNamed) {
    const Physical memory;
    EXPECT_EQ(failed(aarch64(0, 0, tcr(25, 25, 3, 2)), memory, 0), "bad configuration 0");  // granule
    EXPECT_EQ(failed(aarch64(0, 0, tcr(8, 25, 0, 2)), memory, 0), "bad configuration 0");   // 56 bits
    EXPECT_EQ(failed(aarch64(0, 0, tcr(60, 25, 0, 2)), memory, 0), "bad configuration 0");  // 4 bits
    EXPECT_EQ(failed(aarch64(0, 0, tcr(48, 25, 1, 3)), memory, 0), "bad configuration 0");  // less than a page
    EXPECT_EQ(failed(aarch64(0, 0, tcr(25, 25, 0, 0)), memory, ~std::uint64_t{0}), "bad configuration 0");
    RegisterSnapshot snapshot;
    EXPECT_THROW((void)PagingState::of_aarch64(snapshot), ArgumentError);
    snapshot.tcr_el1 = tcr(25, 25, 0, 2);
    snapshot.page_table_root = 0x2000;
    snapshot.user_page_table_root = 0x1000;
    EXPECT_EQ(PagingState::of_aarch64(snapshot).ttbr1, 0x2000U);
}

}  // namespace
}  // namespace vmthaw
