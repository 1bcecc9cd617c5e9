#include "pager/page_table.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

namespace vmthaw {
namespace {

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kHuge = 2U << 20U;
constexpr std::uint64_t kBase = 0x7000'0000'0000;

Region region(std::uint64_t host, std::uint64_t pages, std::uint64_t offset, std::uint64_t page_size = kPage) {
    return {host, 0x1'0000'0000 + offset, pages * page_size, offset, page_size};
}

PageState state_at(const PageTable& table, std::uint64_t address) {
    const MappedRegion* mapped = table.find(address);
    EXPECT_NE(mapped, nullptr) << std::hex << address;
    return mapped == nullptr ? PageState::failed : mapped->state(mapped->page_of(address));
}

void set_at(const PageTable& table, std::uint64_t address, PageState state) {
    const MappedRegion* mapped = table.find(address);
    ASSERT_NE(mapped, nullptr);
    mapped->set(mapped->page_of(address), state);
}

std::uint64_t offset_at(const PageTable& table, std::uint64_t address) {
    const MappedRegion* mapped = table.find(address);
    EXPECT_NE(mapped, nullptr) << std::hex << address;
    return mapped == nullptr ? 0 : mapped->offset_of(mapped->page_of(address));
}

TEST(PageTable, FindsByHostAddressAndNothingBetweenRegions) {
    const PageTable table({region(kBase + 64 * kPage, 4, 16 * kPage), region(kBase, 16, 0)});
    EXPECT_EQ(table.find(kBase - 1), nullptr);
    EXPECT_EQ(offset_at(table, kBase), 0U);
    EXPECT_EQ(offset_at(table, kBase + 16 * kPage - 1), 15 * kPage);
    EXPECT_EQ(table.find(kBase + 16 * kPage), nullptr);
    EXPECT_EQ(offset_at(table, kBase + 64 * kPage), 16 * kPage);
    EXPECT_EQ(table.find(kBase + 68 * kPage), nullptr);
    EXPECT_EQ(table.find(0), nullptr);
    EXPECT_EQ(table.find(~std::uint64_t{0}), nullptr);
}

TEST(PageTable, FindsByGuestAddress) {
    const PageTable table({region(kBase, 16, 0), region(kBase - 64 * kPage, 4, 16 * kPage)});
    ASSERT_NE(table.find_guest(0x1'0000'0000 + 16 * kPage), nullptr);
    EXPECT_EQ(table.find_guest(0x1'0000'0000 + 16 * kPage)->region.host_address, kBase - 64 * kPage);
    EXPECT_EQ(table.find_guest(0x1'0000'0000 + 20 * kPage), nullptr);
    EXPECT_EQ(table.find_guest(0), nullptr);
}

TEST(PageTable, RemoveTakesEveryPageThatTheRangeTouches) {
    PageTable table({region(kBase, 16, 0)});
    EXPECT_EQ(table.remove(kBase + 2 * kPage + 100, kBase + 4 * kPage + 1), 3U);
    for (std::uint64_t page = 0; page < 16; ++page) {
        EXPECT_EQ(state_at(table, kBase + page * kPage),
                  page >= 2 && page <= 4 ? PageState::removed : PageState::absent)
            << page;
    }
}

TEST(PageTable, RemoveOfPartOfAHugePageTakesTheHugePage) {
    PageTable table({region(kBase, 4, 0, kHuge)});
    EXPECT_EQ(table.remove(kBase + kHuge + kPage, kBase + kHuge + 2 * kPage), 1U);
    EXPECT_EQ(state_at(table, kBase), PageState::absent);
    EXPECT_EQ(state_at(table, kBase + kHuge), PageState::removed);
}

TEST(PageTable, RemoveCrossesRegionsAndIgnoresWhatIsNotOurs) {
    PageTable table({region(kBase, 2, 0), region(kBase + 4 * kPage, 2, 2 * kPage)});
    EXPECT_EQ(table.remove(kBase + kPage, kBase + 5 * kPage), 2U);
    EXPECT_EQ(state_at(table, kBase + kPage), PageState::removed);
    EXPECT_EQ(state_at(table, kBase + 4 * kPage), PageState::removed);
    EXPECT_EQ(table.remove(0, kBase), 0U);
    EXPECT_EQ(table.remove(kBase + kPage, kBase), 0U);  // backwards
    EXPECT_EQ(table.remove(0, ~std::uint64_t{0}), 4U);
}

TEST(PageTable, UnmapCutsAHoleAndKeepsStatesAndOffsets) {
    PageTable table({region(kBase, 16, 0)});
    set_at(table, kBase + 12 * kPage, PageState::present);
    table.unmap(kBase + 4 * kPage, kBase + 8 * kPage);
    ASSERT_EQ(table.regions().size(), 2U);
    EXPECT_EQ(table.find(kBase + 4 * kPage), nullptr);
    EXPECT_EQ(table.find(kBase + 8 * kPage - 1), nullptr);
    EXPECT_EQ(offset_at(table, kBase + 3 * kPage), 3 * kPage);
    EXPECT_EQ(offset_at(table, kBase + 8 * kPage), 8 * kPage);
    EXPECT_EQ(state_at(table, kBase + 12 * kPage), PageState::present);
    EXPECT_EQ(state_at(table, kBase + 11 * kPage), PageState::absent);
    EXPECT_EQ(table.regions()[1].guest_of(0), 0x1'0000'0000 + 8 * kPage);
}

TEST(PageTable, UnmapOfAllLeavesNothingAndOfNothingLeavesAll) {
    PageTable table({region(kBase, 16, 0)});
    table.unmap(kBase + 100 * kPage, kBase + 200 * kPage);
    EXPECT_EQ(table.regions().size(), 1U);
    table.unmap(0, ~std::uint64_t{0});
    EXPECT_TRUE(table.regions().empty());
    EXPECT_EQ(table.find(kBase), nullptr);
}

TEST(PageTable, UnmapInsideAHugePageKeepsTheTableWhole) {
    PageTable table({region(kBase, 4, 0, kHuge)});
    table.unmap(kBase + kHuge + kPage, kBase + 2 * kHuge);
    for (const MappedRegion& mapped : table.regions()) {
        EXPECT_EQ(mapped.region.size % kHuge, 0U);
        EXPECT_EQ(mapped.region.host_address % kHuge, 0U);
        EXPECT_EQ(mapped.offset_of(0), mapped.region.host_address - kBase);
    }
}

TEST(PageTable, RemapMovesStatesAndKeepsOffsets) {
    PageTable table({region(kBase, 16, 0)});
    set_at(table, kBase + 5 * kPage, PageState::present);
    set_at(table, kBase + 6 * kPage, PageState::removed);
    const std::uint64_t target = kBase + 1000 * kPage;
    table.remap(kBase + 4 * kPage, target, 4 * kPage);
    EXPECT_EQ(table.find(kBase + 4 * kPage), nullptr);
    EXPECT_EQ(offset_at(table, target), 4 * kPage);
    EXPECT_EQ(state_at(table, target + kPage), PageState::present);
    EXPECT_EQ(state_at(table, target + 2 * kPage), PageState::removed);
    EXPECT_EQ(state_at(table, target + 3 * kPage), PageState::absent);
    EXPECT_EQ(offset_at(table, kBase + 8 * kPage), 8 * kPage);
    EXPECT_EQ(table.find(target + 4 * kPage), nullptr);
}

TEST(PageTable, RemapGivesClaimsBack) {
    PageTable table({region(kBase, 16, 0)});
    set_at(table, kBase, PageState::filling);
    set_at(table, kBase + kPage, PageState::zeroing);
    table.remap(kBase, kBase + 1000 * kPage, 16 * kPage);
    EXPECT_EQ(state_at(table, kBase + 1000 * kPage), PageState::absent);
    EXPECT_EQ(state_at(table, kBase + 1001 * kPage), PageState::removed);
}

TEST(PageTable, RemapReplacesWhatLayAtTheTarget) {
    PageTable table({region(kBase, 4, 0), region(kBase + 8 * kPage, 4, 4 * kPage)});
    table.remap(kBase, kBase + 9 * kPage, 2 * kPage);
    EXPECT_EQ(offset_at(table, kBase + 8 * kPage), 4 * kPage);
    EXPECT_EQ(offset_at(table, kBase + 9 * kPage), 0U);
    EXPECT_EQ(offset_at(table, kBase + 10 * kPage), kPage);
    EXPECT_EQ(offset_at(table, kBase + 11 * kPage), 7 * kPage);
    EXPECT_EQ(table.find(kBase), nullptr);
}

TEST(PageTable, CloneHasStatesOfItsOwnWithoutTheParentsClaims) {
    PageTable table({region(kBase, 16, 0)});
    table.unmap(kBase, kBase + 2 * kPage);  // so that pages do not begin at 0 in the map
    set_at(table, kBase + 2 * kPage, PageState::present);
    set_at(table, kBase + 3 * kPage, PageState::filling);
    set_at(table, kBase + 4 * kPage, PageState::zeroing);
    const PageTable child = table.clone();
    EXPECT_EQ(state_at(child, kBase + 2 * kPage), PageState::present);
    EXPECT_EQ(state_at(child, kBase + 3 * kPage), PageState::absent);
    EXPECT_EQ(state_at(child, kBase + 4 * kPage), PageState::removed);
    EXPECT_EQ(offset_at(child, kBase + 4 * kPage), 4 * kPage);
    set_at(child, kBase + 5 * kPage, PageState::present);
    EXPECT_EQ(state_at(table, kBase + 5 * kPage), PageState::absent);
    EXPECT_EQ(state_at(table, kBase + 3 * kPage), PageState::filling);
}

}  // namespace
}  // namespace vmthaw
