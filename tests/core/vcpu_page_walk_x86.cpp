#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <vector>

#include "page_walk_support.hpp"
#include "vcpu/page_walk.hpp"

namespace vmthaw {
namespace {

using namespace walk_test;

PagingState long_mode(std::uint64_t root, bool five = false, bool no_execute = true) {
    PagingState state;
    state.cr0 = 0x8000'0001;
    state.cr3 = root | 0x18;  // PWT and PCD are no address
    state.cr4 = 0x20U | (five ? 0x1000U : 0U);
    state.efer = 0x500U | (no_execute ? 0x800U : 0U);
    return state;
}

TEST(PageWalkX86, FourLevelsAndTheirPermissions) {
    Physical memory;
    // 0xffff8123'4567'89ab: indices 0x102, 0x08d, 0x02b, 0x078.
    const std::uint64_t address = 0xFFFF'8123'4567'89AB;
    memory.put(0x1000 + 8 * 0x102, 0x2000 | 0x7);
    memory.put(0x2000 + 8 * 0x08D, 0x3000 | 0x7);
    memory.put(0x3000 + 8 * 0x02B, 0x4000 | 0x7);
    memory.put(0x4000 + 8 * 0x078, 0x000F'FFFF'FFFF'F000 | 0x27);
    PageTranslation page = found(long_mode(0x1000), memory, address);
    EXPECT_EQ(page.guest_physical, 0x000F'FFFF'FFFF'F9ABU);
    EXPECT_EQ(page.page_bytes, 4096U);
    EXPECT_EQ(page.permissions, (PagePermissions{true, true, true, true}));
    EXPECT_TRUE(page.accessed);
    // Each level takes away what it does not allow.
    memory.put(0x2000 + 8 * 0x08D, 0x3000 | 0x5);
    EXPECT_EQ(found(long_mode(0x1000), memory, address).permissions, (PagePermissions{false, true, true, true}));
    memory.put(0x3000 + 8 * 0x02B, 0x4000 | 0x3);
    EXPECT_EQ(found(long_mode(0x1000), memory, address).permissions, (PagePermissions{false, false, true, false}));
    memory.put(0x1000 + 8 * 0x102, 0x2000 | 0x7 | kNoExecute);
    page = found(long_mode(0x1000), memory, address);
    EXPECT_EQ(page.permissions, (PagePermissions{false, false, false, false}));
    // Without EFER.NXE that bit is reserved.
    EXPECT_EQ(failed(long_mode(0x1000, false, false), memory, address), "reserved bits 4");
    EXPECT_EQ(failed(long_mode(0x1000), memory, address + 0x1000), "not present 1");
    EXPECT_EQ(failed(long_mode(0x1000), memory, 0x0000'8123'4567'89AB), "not canonical 0");
    EXPECT_EQ(failed(long_mode(0x1000), memory, 0x0001'0000'0000'0000), "not canonical 0");
    EXPECT_EQ(failed(long_mode(0x100'0000), memory, address), "no memory 4");
}

TEST(PageWalkX86, LargePagesOfLongMode) {
    Physical memory;
    memory.put(0x1000, 0x2003);
    memory.put(0x2000, 0x3003);
    memory.put(0x2008, (std::uint64_t{5} << 30U) | 0x83);              // 1 GiB
    memory.put(0x3000 + 8 * 3, 0x60'0000 | 0x83 | 0x1000);             // 2 MiB, bit 12 is PAT
    memory.put(0x3000 + 8 * 4, 0x60'0000 | 0x83 | 0x2000);             // bit 13 must be 0
    memory.put(0x2010, (std::uint64_t{5} << 30U) | 0x83 | 0x4000'0U);  // 1 GiB with a reserved bit
    PageTranslation page = found(long_mode(0x1000), memory, 0x4012'3456);
    EXPECT_EQ(page.guest_physical, (std::uint64_t{5} << 30U) + 0x12'3456U);
    EXPECT_EQ(page.page_bytes, std::uint64_t{1} << 30U);
    EXPECT_FALSE(page.accessed);
    page = found(long_mode(0x1000), memory, 3 * 0x20'0000 + 0x1'2345);
    EXPECT_EQ(page.guest_physical, 0x60'0000U + 0x1'2345U);
    EXPECT_EQ(page.page_bytes, 0x20'0000U);
    EXPECT_EQ(failed(long_mode(0x1000), memory, 4 * 0x20'0000), "reserved bits 2");
    EXPECT_EQ(failed(long_mode(0x1000), memory, std::uint64_t{2} << 30U), "reserved bits 3");
    memory.put(0x1008, 0x2083);  // a page of 512 GiB there is none of
    EXPECT_EQ(failed(long_mode(0x1000), memory, std::uint64_t{1} << 39U), "reserved bits 4");
}

TEST(PageWalkX86, FiveLevels) {
    Physical memory;
    const std::uint64_t address = 0xFF12'3456'789A'BCDE;  // bit 56 set: canonical with 57 bits, not with 48
    memory.put(0x1000 + 8 * (address >> 48U & 511U), 0x2003);
    memory.put(0x2000 + 8 * (address >> 39U & 511U), 0x3003);
    memory.put(0x3000 + 8 * (address >> 30U & 511U), 0x4003);
    memory.put(0x4000 + 8 * (address >> 21U & 511U), 0x5003);
    memory.put(0x5000 + 8 * (address >> 12U & 511U), 0x7'7000 | 0x3);
    EXPECT_EQ(found(long_mode(0x1000, true), memory, address).guest_physical, 0x7'7CDEU);
    EXPECT_EQ(failed(long_mode(0x1000), memory, address), "not canonical 0");
    EXPECT_EQ(failed(long_mode(0x1000, true), memory, 0x0112'3456'789A'BCDE), "not canonical 0");
}

TEST(PageWalkX86, ThreeLevelsWithPae) {
    Physical memory;
    PagingState state;
    state.cr0 = 0x8000'0001;
    state.cr3 = 0x1020;  // the four entries need only 32 bytes of alignment
    state.cr4 = 0x20;
    memory.put(0x1020 + 8 * 2, 0x2001);
    memory.put(0x2000 + 8 * 1, 0x3007);
    memory.put(0x3000 + 8 * 5, 0xF'1234'5000 | 0x5);
    PageTranslation page = found(state, memory, 0x8020'5678);
    EXPECT_EQ(page.guest_physical, 0xF'1234'5678U);
    EXPECT_EQ(page.permissions, (PagePermissions{false, true, true, true}));
    memory.put(0x2000 + 8 * 2, 0x40'0083);
    EXPECT_EQ(found(state, memory, 0x8040'0000).page_bytes, 0x20'0000U);
    memory.put(0x1020 + 8 * 1, 0x2003);  // no writable bit there
    EXPECT_EQ(failed(state, memory, 0x4000'0000), "reserved bits 3");
    EXPECT_EQ(failed(state, memory, 0x1'8020'5678), "not canonical 0");
}

TEST(PageWalkX86, TwoLevelsOf32Bits) {
    Physical memory;
    PagingState state;
    state.cr0 = 0x8000'0001;
    state.cr3 = 0x1000;
    state.cr4 = 0x10;  // PSE
    memory.put(0x1000 + 4 * 0x300, 0x2007, 4);
    memory.put(0x2000 + 4 * 0x111, 0x8765'4005, 4);
    EXPECT_EQ(found(state, memory, 0xC011'1ABC).guest_physical, 0x8765'4ABCU);
    EXPECT_EQ(found(state, memory, 0xC011'1ABC).permissions, (PagePermissions{false, true, true, true}));
    // 4 MiB, with bits 39 to 32 in bits 20 to 13.
    memory.put(0x1000 + 4 * 0x301, 0x1240'0083 | 0x7FU << 13U, 4);
    PageTranslation page = found(state, memory, 0xC040'0001);
    EXPECT_EQ(page.guest_physical, 0x7F'1240'0001U);
    EXPECT_EQ(page.page_bytes, 0x40'0000U);
    memory.put(0x1000 + 4 * 0x302, 0x1240'0083 | 1U << 21U, 4);
    EXPECT_EQ(failed(state, memory, 0xC080'0000), "reserved bits 2");
    state.cr4 = 0;  // then it is a table
    EXPECT_EQ(failed(state, memory, 0xC040'0001), "no memory 1");
}

TEST(PageWalkX86, WithoutPagingAddressesAreThemselves) {
    const Physical memory;
    EXPECT_EQ(found({}, memory, 0xFFFF'FFF0).guest_physical, 0xFFFF'FFF0U);
    EXPECT_EQ(failed({}, memory, 0x1'0000'0000), "not canonical 0");
    EXPECT_EQ(memory.reads, 0);
}

TEST(GuestVirtualRead, CrossesPagesAndStopsWhereNothingIs) {
    Physical memory;
    memory.put(0x1000, 0x2003);
    memory.put(0x2000, 0x3003);
    memory.put(0x3000, 0x4003);
    memory.put(0x4000, 0x2'0003);  // two pages, the other way round in memory
    memory.put(0x4008, 0x1'0003);
    memory.put(0x2'0FFC, 0x1111'1111, 4);
    memory.put(0x1'0000, 0x2222'2222, 4);
    std::vector<std::byte> out(8);
    const PagingState state = long_mode(0x1000);
    EXPECT_FALSE(read_guest_virtual(state, memory.reader(), 0xFFC, out).has_value());
    std::uint64_t value = 0;
    std::memcpy(&value, out.data(), 8);
    EXPECT_EQ(value, 0x2222'2222'1111'1111U);
    std::vector<std::byte> more(4097);
    const auto failure = read_guest_virtual(state, memory.reader(), 0x1000, more);
    ASSERT_TRUE(failure.has_value());
    EXPECT_EQ(failure->address, 0x2000U);
    EXPECT_EQ(failure->reason, WalkFailureReason::not_present);
    EXPECT_NE(failure->describe().find("0x2000"), std::string::npos);
}

TEST(GuestVirtualRead, EndsAtTheEndOfAllAddresses) {
    Physical memory;
    memory.put(0x1000 + 8 * 511, 0x2003);
    memory.put(0x2000 + 8 * 511, 0x3003);
    memory.put(0x3000 + 8 * 511, 0x4003);
    memory.put(0x4000 + 8 * 511, 0x1'0003);
    memory.put(0x1'0000, 0);
    std::vector<std::byte> out(8);
    EXPECT_FALSE(read_guest_virtual(long_mode(0x1000), memory.reader(), ~std::uint64_t{7}, out).has_value());
    out.resize(9);
    EXPECT_EQ(read_guest_virtual(long_mode(0x1000), memory.reader(), ~std::uint64_t{7}, out)->reason,
              WalkFailureReason::not_canonical);
}

TEST(MappedRanges, JoinsWhatLiesTogetherInBothHalves) {
    Physical memory;
    memory.put(0x1000, 0x2003);
    memory.put(0x2000, 0x3003);
    memory.put(0x3000, 0x83);              // 2 MiB onto itself
    memory.put(0x3008, 0x20'0000 | 0x83);  // and the next
    memory.put(0x3010, 0x10'0000'0000 | 0x83);
    memory.put(0x1000 + 8 * 256, 0x2003);  // the same tables in the upper half
    const MappedRanges found_all = mapped_ranges(long_mode(0x1000), memory.reader(), 100);
    EXPECT_TRUE(found_all.is_complete);
    ASSERT_EQ(found_all.ranges.size(), 4U);
    EXPECT_EQ(found_all.ranges[0].size_bytes, 0x40'0000U);
    EXPECT_EQ(found_all.ranges[1].guest_physical, 0x10'0000'0000U);
    EXPECT_EQ(found_all.ranges[2].address, 0xFFFF'8000'0000'0000U);
    const MappedRanges few = mapped_ranges(long_mode(0x1000), memory.reader(), 3);
    EXPECT_FALSE(few.is_complete);
    EXPECT_EQ(few.ranges.size(), 3U);
    EXPECT_TRUE(mapped_ranges({}, memory.reader(), 100).ranges.empty());
}

TEST(MappedRanges, TablesThatPointAtThemselvesMeetTheLimit) {
    Physical memory;
    for (std::uint64_t i = 0; i < 512; ++i) {
        memory.put(0x1000 + 8 * i, 0x1003);
    }
    const MappedRanges found_all = mapped_ranges(long_mode(0x1000), memory.reader(), 1000);
    EXPECT_FALSE(found_all.is_complete);
    EXPECT_EQ(found_all.ranges.size(), 1000U);
    // Without a single page in the end: the tables that are read have a limit too.
    for (std::uint64_t i = 0; i < 512; ++i) {
        memory.put(0x1000 + 8 * i, 0x2003);
        memory.put(0x2000 + 8 * i, 0x3003);
        memory.put(0x3000 + 8 * i, 0x4003);
        memory.put(0x4000 + 8 * i, 0);
    }
    memory.reads = 0;
    const MappedRanges empty = mapped_ranges(long_mode(0x1000), memory.reader(), 1000, 512 * 1000);
    EXPECT_FALSE(empty.is_complete);
    EXPECT_TRUE(empty.ranges.empty());
    EXPECT_EQ(memory.reads, 1000);
}

}  // namespace
}  // namespace vmthaw
