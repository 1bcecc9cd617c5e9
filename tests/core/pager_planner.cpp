#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>

#include "pager/fill_planner.hpp"
#include "pager/pager_stats.hpp"
#include "testing/splitmix.hpp"

namespace vmthaw {
namespace {

constexpr std::uint64_t kFar = 1U << 20U;

TEST(FillPlanner, PageModePlansThePageAlone) {
    FillPlanner planner(FillMode::page, 512);
    for (const std::uint64_t page : {0U, 1U, 2U, 900U}) {
        const FillPlan plan = planner.plan(page, 0, kFar);
        EXPECT_EQ(plan.first_page, page);
        EXPECT_EQ(plan.pages, 1U);
        planner.filled(plan);
    }
}

TEST(FillPlanner, BlockModePlansTheAlignedBlock) {
    FillPlanner planner(FillMode::block, 16);
    const FillPlan plan = planner.plan(37, 0, kFar);
    EXPECT_EQ(plan.first_page, 32U);
    EXPECT_EQ(plan.pages, 16U);
}

TEST(FillPlanner, BlockModeStaysInsideItsRegion) {
    FillPlanner planner(FillMode::block, 16);
    const FillPlan low = planner.plan(37, 35, kFar);
    EXPECT_EQ(low.first_page, 35U);
    EXPECT_EQ(low.pages, 48U - 35U);
    const FillPlan high = planner.plan(37, 0, 39);
    EXPECT_EQ(high.first_page, 32U);
    EXPECT_EQ(high.pages, 7U);
}

TEST(FillPlanner, BlockModeSurvivesTheEndOfTheAddressSpace) {
    FillPlanner planner(FillMode::block, 512);
    const std::uint64_t last = ~std::uint64_t{0} - 1;
    const FillPlan plan = planner.plan(last, last - 3, last + 1);
    EXPECT_LE(plan.first_page, last);
    EXPECT_EQ(plan.first_page + plan.pages, last + 1);
}

TEST(FillPlanner, WindowDoublesWhileFaultsHitThePageAfterTheLastFill) {
    FillPlanner planner(FillMode::window, 64);
    std::uint64_t page = 1000;
    for (const std::uint64_t expected : {1U, 2U, 4U, 8U, 16U, 32U, 64U, 64U, 64U}) {
        const FillPlan plan = planner.plan(page, 0, kFar);
        EXPECT_EQ(plan.first_page, page);
        EXPECT_EQ(plan.pages, expected);
        planner.filled(plan);
        page += plan.pages;
    }
}

TEST(FillPlanner, WindowStaysAtOnePageForRandomFaults) {
    FillPlanner planner(FillMode::window, 512);
    testing::SplitMix random(7);
    std::uint64_t pages = 0;
    for (int i = 0; i < 1000; ++i) {
        const FillPlan plan = planner.plan(random.below(1U << 30U), 0, 1U << 30U);
        pages += plan.pages;
        planner.filled(plan);
    }
    EXPECT_LT(pages, 1010U);
}

TEST(FillPlanner, WindowFollowsEightStreamsAndForgetsTheOldestOfNine) {
    FillPlanner planner(FillMode::window, 512);
    const auto touch = [&](std::uint64_t page) {
        const FillPlan plan = planner.plan(page, 0, kFar);
        planner.filled(plan);
        return plan.pages;
    };
    for (std::uint64_t stream = 0; stream < 8; ++stream) {
        EXPECT_EQ(touch(stream * 10'000), 1U);
    }
    for (std::uint64_t stream = 0; stream < 8; ++stream) {
        EXPECT_EQ(touch(stream * 10'000 + 1), 2U) << stream;
    }
    EXPECT_EQ(touch(900'000), 1U);  // takes the place of stream 0, which was used longest ago
    EXPECT_EQ(touch(10'000 + 3), 4U);
    EXPECT_EQ(touch(3), 1U);
}

TEST(FillPlanner, WindowEndsAtTheRegionsEnd) {
    FillPlanner planner(FillMode::window, 512);
    planner.filled(planner.plan(10, 0, 12));
    EXPECT_EQ(planner.plan(11, 0, 12).pages, 1U);
}

TEST(FillPlanner, WindowGoesOnBehindAPlanThatWasCutShort) {
    FillPlanner planner(FillMode::window, 512);
    planner.filled(planner.plan(10, 0, kFar));
    EXPECT_EQ(planner.plan(11, 0, kFar).pages, 2U);
    planner.filled({11, 1});
    EXPECT_EQ(planner.plan(12, 0, kFar).pages, 4U);
}

TEST(FillPlanner, EveryPlanHoldsThePageAndKeepsTheBounds) {
    testing::SplitMix random(11);
    for (const FillMode mode : {FillMode::page, FillMode::block, FillMode::window}) {
        for (const std::uint64_t max_pages : {0U, 1U, 3U, 16U, 512U}) {
            FillPlanner planner(mode, max_pages);
            std::uint64_t next = 0;
            for (int i = 0; i < 2000; ++i) {
                const std::uint64_t low = random.below(4096);
                const std::uint64_t high = low + 1 + random.below(2048);
                const std::uint64_t page =
                    next >= low && next < high && random.below(2) == 0 ? next : low + random.below(high - low);
                const FillPlan plan = planner.plan(page, low, high);
                ASSERT_GE(plan.first_page, low);
                ASSERT_LE(plan.first_page, page);
                ASSERT_GT(plan.first_page + plan.pages, page);
                ASSERT_LE(plan.first_page + plan.pages, high);
                ASSERT_LE(plan.pages, max_pages < 1 ? 1 : max_pages);
                planner.filled(plan);
                next = plan.first_page + plan.pages;
            }
        }
    }
}

TEST(LatencyHistogram, BucketsAreMonotoneAndAtMostAnEighthOff) {
    std::size_t last = 0;
    for (std::uint64_t ns = 0; ns < (1ULL << 40U); ns = ns < 4096 ? ns + 1 : ns + ns / 17) {
        const std::size_t bucket = LatencyHistogram::bucket_of(ns);
        ASSERT_GE(bucket, last);
        last = bucket;
        const std::uint64_t from = LatencyHistogram::lower_bound_ns(bucket);
        const std::uint64_t to = LatencyHistogram::lower_bound_ns(bucket + 1);
        ASSERT_LE(from, ns);
        ASSERT_GT(to, ns);
        ASSERT_LE(static_cast<double>(to - 1 - from), 0.125 * static_cast<double>(from)) << ns;
    }
}

TEST(LatencyHistogram, LowerBoundsAndBucketsAreInverse) {
    for (std::size_t bucket = 0; bucket < LatencyHistogram::kBuckets; ++bucket) {
        EXPECT_EQ(LatencyHistogram::bucket_of(LatencyHistogram::lower_bound_ns(bucket)), bucket);
    }
    EXPECT_EQ(LatencyHistogram::bucket_of(~std::uint64_t{0}), LatencyHistogram::kBuckets - 1);
}

TEST(PagerStats, PercentilesAreWithinABucketOfTheTruth) {
    PagerCounters counters;
    for (std::uint64_t us = 1; us <= 1000; ++us) {
        counters.latency.add(us * 1000);
    }
    const PagerStats stats = snapshot(counters);
    for (const double fraction : {0.01, 0.5, 0.95, 0.99, 1.0}) {
        const double truth = fraction * 1'000'000;
        EXPECT_GE(static_cast<double>(stats.latency_ns(fraction)), truth - 1) << fraction;
        EXPECT_LE(static_cast<double>(stats.latency_ns(fraction)), truth * 1.125 + 1) << fraction;
    }
    EXPECT_LE(stats.latency_ns(0), stats.latency_ns(0.01));
}

TEST(PagerStats, WithoutFaultsEveryPercentileIsZero) {
    EXPECT_EQ(PagerStats{}.latency_ns(0.5), 0U);
    EXPECT_EQ(PagerStats{}.latency_ns(1), 0U);
}

TEST(PagerStats, SnapshotAndSumCarryEveryCounter) {
    PagerCounters counters;
    std::uint64_t value = 1;
    for (auto* counter :
         {&counters.faults, &counters.prewarmed, &counters.installed, &counters.zero, &counters.fault_around,
          &counters.populated, &counters.prefetched, &counters.redundant, &counters.coalesced, &counters.retried,
          &counters.deferred, &counters.failed, &counters.removed, &counters.forwarded, &counters.reinstalls,
          &counters.overflowed, &counters.source_bytes, &counters.events}) {
        bump(*counter, value++);
    }
    counters.latency.add(5);
    PagerStats stats = snapshot(counters);
    stats += snapshot(counters);
    value = 1;
    for (const std::uint64_t sum :
         {stats.faults, stats.prewarmed, stats.installed, stats.zero, stats.fault_around, stats.populated,
          stats.prefetched, stats.redundant, stats.coalesced, stats.retried, stats.deferred, stats.failed,
          stats.removed, stats.forwarded, stats.reinstalls, stats.overflowed, stats.source_bytes, stats.events}) {
        EXPECT_EQ(sum, 2 * value++);
    }
    EXPECT_EQ(stats.latency[5], 2U);
}

}  // namespace
}  // namespace vmthaw
