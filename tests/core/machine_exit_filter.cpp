#include <gtest/gtest.h>

#include <cstdint>
#include <optional>

#include "base/error.hpp"
#include "machine/run_loop/exit_filter.hpp"

namespace vmthaw {
namespace {

Exit port_exit(std::uint16_t port) {
    Exit exit;
    exit.has_reason = true;
    exit.reason = 2;
    exit.payload = IoExit{false, 1, port, 1, 0};
    return exit;
}

Exit mmio_exit(std::uint64_t address) {
    Exit exit;
    exit.has_reason = true;
    exit.reason = 6;
    exit.payload = MmioExit{address, {}, 4, true};
    return exit;
}

TEST(ExitFilter, TakesNothingWhenItIsEmpty) {
    const ExitFilter filter;
    EXPECT_TRUE(filter.empty());
    EXPECT_EQ(filter.find(port_exit(1)), std::nullopt);
}

TEST(ExitFilter, FindsTheRangeThatAnAccessBeginsIn) {
    ExitFilter filter;
    EXPECT_EQ(filter.add_ports(0x3F8, 0x3FF), 0U);
    EXPECT_EQ(filter.add_ports(0x60, 0x60), 1U);
    EXPECT_EQ(filter.add_mmio(0xFFFF'FFFF'FFFF'F000, 0xFFFF'FFFF'FFFF'FFFF), 2U);
    EXPECT_EQ(filter.size(), 3U);
    EXPECT_EQ(filter.find(port_exit(0x3F7)), std::nullopt);
    EXPECT_EQ(filter.find(port_exit(0x3F8)), 0U);
    EXPECT_EQ(filter.find(port_exit(0x3FF)), 0U);
    EXPECT_EQ(filter.find(port_exit(0x400)), std::nullopt);
    EXPECT_EQ(filter.find(port_exit(0x60)), 1U);
    EXPECT_EQ(filter.find(port_exit(0)), std::nullopt);
    EXPECT_EQ(filter.find(mmio_exit(0xFFFF'FFFF'FFFF'FFFF)), 2U);
    EXPECT_EQ(filter.find(mmio_exit(0x60)), std::nullopt) << "a port is no address";
}

TEST(ExitFilter, TakesAReasonThatNoRangeTakes) {
    ExitFilter filter;
    (void)filter.add_reason(2);
    (void)filter.add_ports(0x10, 0x1F);
    EXPECT_EQ(filter.find(port_exit(0x10)), 1U);
    EXPECT_EQ(filter.find(port_exit(0x20)), 0U);
    EXPECT_EQ(filter.find(mmio_exit(0x10)), std::nullopt);
}

TEST(ExitFilter, NeverTakesAFailedRun) {
    ExitFilter filter;
    (void)filter.add_reason(0);
    Exit failed;
    failed.result = -1;
    EXPECT_EQ(filter.find(failed), std::nullopt);
}

TEST(ExitFilter, RefusesWhatOverlapsOrEndsTooSoonOrTooLate) {
    ExitFilter filter;
    (void)filter.add_ports(0x10, 0x1F);
    EXPECT_THROW((void)filter.add_ports(0x1F, 0x20), ArgumentError);
    EXPECT_THROW((void)filter.add_ports(0x0, 0x10), ArgumentError);
    EXPECT_THROW((void)filter.add_ports(0x12, 0x13), ArgumentError);
    EXPECT_THROW((void)filter.add_ports(0x0, 0x100), ArgumentError);
    EXPECT_THROW((void)filter.add_ports(0x30, 0x2F), ArgumentError);
    EXPECT_THROW((void)filter.add_ports(0x30, 0x1'0000), ArgumentError);
    (void)filter.add_reason(7);
    EXPECT_THROW((void)filter.add_reason(7), ArgumentError);
    EXPECT_EQ(filter.size(), 2U) << "what was refused left nothing";
    EXPECT_EQ(filter.add_ports(0x20, 0x2F), 2U);
}

}  // namespace
}  // namespace vmthaw
