#include "pager/region.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "pager/check_pace.hpp"
#include "pager/memory_layout.hpp"
#include "pager/pager_config.hpp"
#include "pager/registration_check.hpp"
#include "source/zero_source.hpp"

namespace vmthaw {
namespace {

constexpr std::uint64_t kRegionPage = 4096;
constexpr std::uint64_t kGiB = 1ULL << 30U;
constexpr std::uint64_t kMax = ~std::uint64_t{0};

Region good() { return {0x10000, 0x20000, 16 * kRegionPage, 0, kRegionPage}; }

void expect_refused(const std::vector<Region>& regions, const std::string& part, const PageSource* source = nullptr) {
    try {
        static_cast<void>(check_regions(regions, source));
        ADD_FAILURE() << "accepted, although: " << part;
    } catch (const Error& error) {
        EXPECT_EQ(error.class_name(), "RegionError");
        EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
}

void expect_refused(const PagerConfig& config, const std::string& part) {
    try {
        check_config(config);
        ADD_FAILURE() << "accepted, although: " << part;
    } catch (const ArgumentError& error) {
        EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
}

template <typename Field, typename Value>
Region with(Field field, Value value) {
    Region region = good();
    region.*field = value;
    return region;
}

TEST(CheckRegions, GivesGoodRegionsBackSorted) {
    Region second = good();
    second.host_address += second.size;
    second.guest_address = 0;
    const std::vector<Region> sorted = check_regions({second, good()}, nullptr);
    ASSERT_EQ(sorted.size(), 2U);
    EXPECT_EQ(sorted[0], good());
    EXPECT_EQ(sorted[1], second);
}

TEST(CheckRegions, RefusesNoneAndTooMany) {
    expect_refused(std::vector<Region>{}, "from 1 to 4096 regions");
    expect_refused(std::vector<Region>(4097, good()), "got 4097");
}

TEST(CheckRegions, RefusesEachMisalignedField) {
    expect_refused({with(&Region::page_size, 4097U)}, "page_size must be");
    expect_refused({with(&Region::page_size, 0U)}, "page_size must be");
    expect_refused({with(&Region::page_size, 2048U)}, "page_size must be");
    expect_refused({with(&Region::page_size, 2 * kGiB)}, "page_size must be");
    expect_refused({with(&Region::size, 0U)}, "size must be");
    expect_refused({with(&Region::size, (1ULL << 46U) + kRegionPage)}, "size must be");
    expect_refused({with(&Region::size, kRegionPage + 1)}, "size is not");
    expect_refused({with(&Region::host_address, 0x10001U)}, "host_address is not");
    expect_refused({with(&Region::guest_address, 0x10800U)}, "guest_address is not");
    expect_refused({with(&Region::source_offset, 17U)}, "source_offset is not");
}

TEST(CheckRegions, RefusesOverflowsWithoutOverflowing) {
    const std::uint64_t high = kMax - kRegionPage + 1;
    expect_refused({with(&Region::host_address, high)}, "host_address + size overflows");
    expect_refused({with(&Region::guest_address, high)}, "guest_address + size overflows");
    expect_refused({with(&Region::source_offset, high)}, "source_offset + size overflows");
}

TEST(CheckRegions, RefusesOverlapsInHostAndGuestMemory) {
    Region second = good();
    second.guest_address += second.size;
    second.host_address += second.size - kRegionPage;
    expect_refused({good(), second}, "overlaps in host memory");
    expect_refused({second, good()}, "overlaps in host memory");
    expect_refused({good(), good()}, "overlaps in host memory");
    second = good();
    second.host_address += second.size;
    second.guest_address += second.size - kRegionPage;
    expect_refused({good(), second}, "overlaps in guest memory");
}

TEST(CheckRegions, RefusesWhatTheSourceDoesNotCover) {
    const ZeroSource source(16 * kRegionPage);
    EXPECT_NO_THROW(static_cast<void>(check_regions({good()}, &source)));
    expect_refused({with(&Region::source_offset, kRegionPage)}, "is not covered by", &source);
}

TEST(MemoryLayout, PutsTheHoleOfX86BelowFourGiB) {
    const MemoryLayout layout = MemoryLayout::x86_64();
    EXPECT_EQ(layout.guest_address(0), 0U);
    EXPECT_EQ(layout.guest_address(3 * kGiB - 1), 3 * kGiB - 1);
    EXPECT_EQ(layout.guest_address(3 * kGiB), 4 * kGiB);
    EXPECT_EQ(layout.guest_address(10 * kGiB), 11 * kGiB);
    EXPECT_EQ(MemoryLayout::aarch64().guest_address(kRegionPage), 2 * kGiB + kRegionPage);
}

TEST(MemoryLayout, SplitsARegionThatCrossesTheHole) {
    const std::vector<Region> pieces = MemoryLayout::x86_64().assign({{kGiB, 0, 4 * kGiB, 0, kRegionPage}});
    ASSERT_EQ(pieces.size(), 2U);
    EXPECT_EQ(pieces[0], (Region{kGiB, 0, 3 * kGiB, 0, kRegionPage}));
    EXPECT_EQ(pieces[1], (Region{4 * kGiB, 4 * kGiB, kGiB, 3 * kGiB, kRegionPage}));
}

TEST(MemoryLayout, RefusesOverlapsOverflowsAndOffsetsOutside) {
    EXPECT_THROW(static_cast<void>(MemoryLayout::custom({})), ArgumentError);
    EXPECT_THROW(static_cast<void>(MemoryLayout::custom({{0, 0, 0}})), ArgumentError);
    EXPECT_THROW(static_cast<void>(MemoryLayout::custom({{0, kMax - 10, 100}})), ArgumentError);
    EXPECT_THROW(static_cast<void>(MemoryLayout::custom({{kMax - 10, 0, 100}})), ArgumentError);
    EXPECT_THROW(static_cast<void>(MemoryLayout::custom({{0, 0, kGiB}, {kGiB, kGiB - 1, kGiB}})), ArgumentError);
    EXPECT_THROW(static_cast<void>(MemoryLayout::custom({{0, 0, kGiB}, {kGiB - 1, kGiB, kGiB}})), ArgumentError);
    const MemoryLayout layout = MemoryLayout::custom({{4 * kGiB, 0, kGiB}, {0, kGiB, kGiB}});
    EXPECT_EQ(layout.guest_address(4 * kGiB), 0U);
    EXPECT_THROW(static_cast<void>(layout.guest_address(2 * kGiB)), ArgumentError);
    EXPECT_THROW(static_cast<void>(layout.assign({{0, 0, 2 * kGiB, 0, kRegionPage}})), ArgumentError);
    EXPECT_THROW(static_cast<void>(MemoryLayout::x86_64().guest_address(kMax)), ArgumentError);
}

TEST(PagerConfig, NamesTheFieldThatItRefuses) {
    EXPECT_NO_THROW(check_config({}));
    PagerConfig config;
    for (const std::uint64_t bytes : {std::uint64_t{0}, std::uint64_t{2048}, std::uint64_t{12288}, 2 * kGiB}) {
        config = {};
        config.fill_bytes = bytes;
        expect_refused(config, "fill_bytes");
    }
    config = {};
    config.retry_min_ns = config.retry_max_ns + 1;
    expect_refused(config, "retry_min");
    config = {};
    config.max_in_flight = 63;
    expect_refused(config, "max_in_flight");
    config = {};
    config.trace_records = (1U << 26U) + 1;
    expect_refused(config, "trace_records");
    config = {};
    config.placement = Placement::pinned;
    config.cpu = 100'000;
    expect_refused(config, "cpu 100000");
}

constexpr const char* kSmaps =
    "00010000-00014000 rw-p 00000000 00:00 0 \n"
    "Size:                 16 kB\n"
    "VmFlags: rd wr mr mw me ac um sd \n"
    "00014000-00018000 rw-p 00000000 00:00 0    [heap]\n"
    "VmFlags: rd wr mr mw me ac sd \n"
    "00018000-00030000 rw-p 00000000 00:00 0    /memfd:um ui\n"
    "VmFlags: rd wr ui\n";

TEST(RegistrationCheck, FindsThePartsOfRegionsThatLostTheirRegistration) {
    EXPECT_EQ(find_unregistered_in(kSmaps, {good()}), (std::vector<UnregisteredRange>{{0x14000, 0x18000}}));
    EXPECT_EQ(find_unregistered_in(kSmaps, {{0x15000, 0, kRegionPage, 0, kRegionPage}}),
              (std::vector<UnregisteredRange>{{0x15000, 0x16000}}));
    EXPECT_TRUE(find_unregistered_in(kSmaps, {{0x10000, 0, 4 * kRegionPage, 0, kRegionPage}}).empty());
    EXPECT_TRUE(find_unregistered_in(kSmaps, {{0x90000, 0, kRegionPage, 0, kRegionPage}}).empty());
    EXPECT_TRUE(find_unregistered_in(kSmaps, {}).empty());
}

TEST(RegistrationCheck, SurvivesHostileText) {
    const std::vector<Region> all{{0, 0, 1ULL << 46U, 0, kRegionPage}};
    for (const char* text :
         {"", "\n", "\n\n\n", "VmFlags:", "VmFlags: rd\n", "-", "1-", "1-2", "-1 ", "zz-1000 rw\nVmFlags: rd\n",
          "2000-1000 rw-p\nVmFlags: rd\n", "1000-1000 rw-p\nVmFlags: rd\n", "fffffffffffffffff-1 rw-p\nVmFlags: rd\n",
          "1000-fffffffffffffffffff rw-p\nVmFlags: rd\n", "1000-2000\nVmFlags: rd\n", "1000-2000 rw-p\n",
          "1000-2000 rw-p\nVmFlags\n"}) {
        EXPECT_TRUE(find_unregistered_in(text, all).empty()) << text;
    }
    // A flag is a whole word.
    EXPECT_EQ(find_unregistered_in("1000-2000 rw-p\nVmFlags: num umx xui", all).size(), 1U);
    EXPECT_TRUE(find_unregistered_in("1000-2000 rw-p\nVmFlags: um", all).empty());
    EXPECT_EQ(find_unregistered_in("0-ffffffffffffffff rw-p\nVmFlags: rd", all),
              (std::vector<UnregisteredRange>{{0, 1ULL << 46U}}));
    std::string text = kSmaps;
    for (std::size_t length = 0; length <= text.size(); ++length) {
        static_cast<void>(find_unregistered_in(std::string_view(text).substr(0, length), all));
        static_cast<void>(find_unregistered_in(std::string_view(text).substr(length), all));
    }
}

TEST(RegistrationCheck, TakesHalfAPerCentOfTheTimeAtMost) {
    CheckPace pace;
    EXPECT_TRUE(pace.is_due(0));
    pace.looked(1'000'000'000, 1'020'000'000);
    EXPECT_FALSE(pace.is_due(5'019'999'999));
    EXPECT_TRUE(pace.is_due(5'020'000'000));
    pace.looked(6'000'000'000, 6'000'000'000);
    EXPECT_TRUE(pace.is_due(6'000'000'000));
}

TEST(RegistrationCheck, ReadsNothingForNoProcess) {
    EXPECT_TRUE(find_unregistered(0, {good()}).empty());
    EXPECT_TRUE(find_unregistered(-1, {good()}).empty());
}

}  // namespace
}  // namespace vmthaw
