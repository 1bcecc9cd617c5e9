// Stores of the guest's own that the host makes in its stead.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "machine/guest_memory.hpp"

namespace vmthaw {
namespace {

constexpr std::array<std::uint8_t, 8> kData{0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88};

TEST(GuestMemoryStore, ArrivesByteForByteAndTouchesNothingBeside) {
    const auto memory = GuestMemory::anonymous(2U << 20U);
    const std::uint64_t page = memory->regions().front().guest_address + 0x3000;
    const std::span<std::byte> bytes = memory->at(page, 64);
    for (std::size_t size = 0; size <= kData.size(); ++size) {
        for (std::size_t offset = 8; offset < 24; ++offset) {
            std::ranges::fill(bytes, std::byte{0xEE});
            ASSERT_TRUE(memory->store(page + offset, std::span(kData).first(size)));
            for (std::size_t at = 0; at < bytes.size(); ++at) {
                const bool is_stored = at >= offset && at < offset + size;
                ASSERT_EQ(std::to_integer<unsigned>(bytes[at]), is_stored ? kData.at(at - offset) : 0xEEU)
                    << size << " bytes at " << offset << ", byte " << at;
            }
        }
    }
}

TEST(GuestMemoryStore, OutsideTheMemoryIsRefused) {
    const auto memory = GuestMemory::anonymous(2U << 20U);
    const std::uint64_t first = memory->regions().front().guest_address;
    const std::uint64_t end = first + memory->size_bytes();
    EXPECT_FALSE(memory->store(end, std::span(kData).first(1)));
    EXPECT_FALSE(memory->store(end - 7, kData));
    EXPECT_TRUE(memory->store(end - 8, kData));
    EXPECT_FALSE(memory->store(first - 1, std::span(kData).first(1)));
    EXPECT_FALSE(memory->store(~std::uint64_t{0} - 3, kData));
}

}  // namespace
}  // namespace vmthaw
