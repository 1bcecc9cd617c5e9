// Where guest memory lies, for both architectures on any host.
#include <gtest/gtest.h>

#include <cstdint>

#include "base/error.hpp"
#include "machine/guest_memory.hpp"

namespace vmthaw {
namespace {

constexpr std::uint64_t kGiB = std::uint64_t{1} << 30U;

TEST(GuestMemoryLayout, LeavesAGapBelow4GiBOnX86) {
    const auto small = GuestMemory::layout(3 * kGiB, GuestArch::x86_64);
    ASSERT_EQ(small.size(), 1U);
    EXPECT_EQ(small[0].guest_address, 0U);
    const auto large = GuestMemory::layout(5 * kGiB, GuestArch::x86_64);
    ASSERT_EQ(large.size(), 2U);
    EXPECT_EQ(large[0].size_bytes, 3 * kGiB);
    EXPECT_EQ(large[1].guest_address, 4 * kGiB);
    EXPECT_EQ(large[1].size_bytes, 2 * kGiB);
    EXPECT_EQ(large[1].file_offset, 3 * kGiB);
}

TEST(GuestMemoryLayout, IsOneRegionAboveTheDevicesOnAarch64) {
    const auto regions = GuestMemory::layout(5 * kGiB, GuestArch::aarch64);
    ASSERT_EQ(regions.size(), 1U);
    EXPECT_EQ(regions[0].guest_address, 2 * kGiB);
    EXPECT_EQ(regions[0].size_bytes, 5 * kGiB);
    EXPECT_EQ(regions[0].file_offset, 0U);
}

TEST(GuestMemoryLayout, HasTheSameLimitsOnBoth) {
    for (const GuestArch arch : {GuestArch::x86_64, GuestArch::aarch64}) {
        EXPECT_THROW((void)GuestMemory::layout(kGiB + 1, arch), ArgumentError);
        EXPECT_THROW((void)GuestMemory::layout(1U << 20U, arch), ArgumentError);
        EXPECT_THROW((void)GuestMemory::layout(65 * kGiB, arch), ArgumentError);
    }
}

}  // namespace
}  // namespace vmthaw
