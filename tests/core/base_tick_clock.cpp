#include <gtest/gtest.h>

#include <cstdint>

#include "base/tick_clock.hpp"

namespace vmthaw {
namespace {

constexpr std::uint64_t kInterval_ns = 20'000'000;

void pass(std::uint64_t ns) {
    const std::uint64_t begin_ns = monotonic_ns();
    while (monotonic_ns() - begin_ns < ns) {
    }
}

TEST(TickClock, AnIntervalIsAsLongAsOnTheClockOfTheTraces) {
    for (const bool in_ns : {false, true}) {
        const TickClock clock(in_ns);
        const std::uint64_t outer_ns = monotonic_ns();
        const std::uint64_t begin = clock.now();
        const std::uint64_t inner_ns = monotonic_ns();
        pass(kInterval_ns);
        const std::uint64_t least_ns = monotonic_ns() - inner_ns;
        const std::uint64_t end = clock.now();
        const std::uint64_t most_ns = monotonic_ns() - outer_ns;
        // A thousandth is what the clock's own calibration may be off by, in so short a time.
        EXPECT_GE(clock.to_ns(end - begin), least_ns - least_ns / 1000) << in_ns;
        EXPECT_LE(clock.to_ns(end - begin), most_ns + most_ns / 1000) << in_ns;
    }
}

TEST(TickClock, InNanosecondsItTellsTheMomentsOfTheTraces) {
    const TickClock clock(true);
    const std::uint64_t before_ns = monotonic_ns();
    const std::uint64_t now = clock.now();
    EXPECT_GE(now, before_ns);
    EXPECT_LE(now, monotonic_ns());
    EXPECT_EQ(clock.to_ns(12345), 12345U);
}

TEST(TickClock, NoIntervalOfAClockJustMadeIsLongerThanItsLife) {
    const std::uint64_t before_ns = monotonic_ns();
    const TickClock clock;
    const std::uint64_t begin = clock.now();
    const std::uint64_t ns = clock.to_ns(clock.now() - begin);
    EXPECT_LE(ns, monotonic_ns() - before_ns);
    EXPECT_EQ(clock.to_ns(0), 0U);
}

}  // namespace
}  // namespace vmthaw
