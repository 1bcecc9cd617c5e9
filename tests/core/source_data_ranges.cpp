// The map of data and holes, against a byte-for-byte oracle and against real file systems.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>

#include "source/file/data_ranges.hpp"
#include "source_support.hpp"

namespace vmthaw::source_tests {
namespace {

using Range = DataRanges::Range;

TEST(SourceDataRanges, RoundsOutwardsToPagesAndJoinsWhatTouches) {
    const DataRanges ranges({{100, 200}, {5000, 8192}, {8192, 9000}, {20000, 20001}}, 1U << 20U);
    EXPECT_EQ(ranges.ranges(), (std::vector<Range>{{0, 12288}, {16384, 20480}}));
}

TEST(SourceDataRanges, AFileThatEndsInsideAPageHasThatWholePage) {
    const DataRanges ranges({{0, 5000}}, 5000);
    EXPECT_EQ(ranges.ranges(), (std::vector<Range>{{0, 8192}}));
    ASSERT_EQ(ranges.extents().size(), 1U);
    EXPECT_EQ(ranges.extents()[0].size, 5000U);
}

TEST(SourceDataRanges, ALimitOfZeroStillMovesOn) {
    const DataRanges ranges({{0, 4096}}, 8192);
    EXPECT_EQ(ranges.at(0, 0).size, 1U);
    EXPECT_EQ(ranges.at(4096, 0).size, 1U);
}

TEST(SourceDataRanges, EveryLookUpAgreesWithABytewiseOracle) {
    std::mt19937_64 random(20240607);
    for (int round = 0; round < 60; ++round) {
        const std::uint64_t size = random() % (64 * kPage) + 1;
        const std::uint64_t pages = (size + kPage - 1) / kPage;
        std::vector<Range> given;
        std::vector<bool> is_data(pages);
        std::uint64_t position = random() % (8 * kPage);
        while (position < size) {
            const std::uint64_t end = std::min(size, position + random() % (6 * kPage) + 1);
            given.push_back({position, end});
            for (std::uint64_t page = position / kPage; page * kPage < end; ++page) {
                is_data[page] = true;
            }
            position = end + random() % (6 * kPage);
        }
        const DataRanges ranges(given, size);
        const auto kind_at = [&](std::uint64_t at) {
            return at / kPage < pages && is_data[at / kPage] ? ExtentKind::data : ExtentKind::zero;
        };
        for (int probe = 0; probe < 200; ++probe) {
            const std::uint64_t at = random() % (size + 2 * kPage);
            const std::uint64_t limit = random() % (8 * kPage);
            const Extent extent = ranges.at(at, limit);
            ASSERT_EQ(extent.offset, at);
            ASSERT_GE(extent.size, 1U);
            ASSERT_LE(extent.size, std::max<std::uint64_t>(limit, 1));
            ASSERT_EQ(extent.kind, kind_at(at));
            ASSERT_EQ(extent.kind, kind_at(at + extent.size - 1));
            for (std::uint64_t step = at; step < at + extent.size; step += kPage) {
                ASSERT_EQ(extent.kind, kind_at(step)) << "at " << step;
            }
            if (extent.size < limit) {
                ASSERT_NE(extent.kind, kind_at(at + extent.size)) << "an extent ended early";
            }
        }
        std::uint64_t expected = 0;
        const std::vector<Extent> extents = ranges.extents();
        for (std::size_t i = 0; i < extents.size(); ++i) {
            ASSERT_EQ(extents[i].offset, expected);
            ASSERT_EQ(extents[i].kind, kind_at(expected));
            ASSERT_TRUE(i == 0 || extents[i].kind != extents[i - 1].kind) << "neighbours of one kind";
            expected += extents[i].size;
        }
        ASSERT_EQ(expected, size);
    }
}

class SourceDataRangesOn : public ::testing::TestWithParam<std::string> {};

TEST_P(SourceDataRangesOn, FindsTheHolesThatTheFileSystemKnows) {
    const TemporaryFile file(GetParam());
    file.resize(64 * kPage);
    file.fill(8 * kPage, 4 * kPage);
    file.fill(40 * kPage, kPage);
    file.fill(41 * kPage, 3 * kPage);
    file.punch(42 * kPage, kPage);
    const DataRanges ranges = DataRanges::scan(file.fd(), 64 * kPage);
    EXPECT_EQ(ranges.ranges(),
              (std::vector<Range>{{8 * kPage, 12 * kPage}, {40 * kPage, 42 * kPage}, {43 * kPage, 44 * kPage}}));
}

TEST_P(SourceDataRangesOn, AFileOfOneHoleHasNoData) {
    const TemporaryFile file(GetParam());
    file.resize(1 << 30);
    const DataRanges ranges = DataRanges::scan(file.fd(), 1 << 30);
    EXPECT_TRUE(ranges.ranges().empty());
    ASSERT_EQ(ranges.extents().size(), 1U);
    EXPECT_EQ(ranges.extents()[0].kind, ExtentKind::zero);
}

TEST_P(SourceDataRangesOn, TenTerabytesOfHoleTakeNoTime) {
    const TemporaryFile file(GetParam());
    const std::uint64_t size = 10ULL << 40U;
    file.resize(size);
    file.fill(size - kPage, kPage);
    const DataRanges ranges = DataRanges::scan(file.fd(), size);
    EXPECT_EQ(ranges.ranges(), (std::vector<Range>{{size - kPage, size}}));
}

INSTANTIATE_TEST_SUITE_P(FileSystems, SourceDataRangesOn, ::testing::Values(TemporaryFile::disk(), "/dev/shm"),
                         [](const auto& tested) { return tested.index == 0 ? "Disk" : "Tmpfs"; });

}  // namespace
}  // namespace vmthaw::source_tests
