#include "machine/snapshot/crc64.hpp"

#include <array>

namespace vmthaw {
namespace {

constexpr std::uint64_t kPolynomial = 0xC96C5795D7870F42ULL;
constexpr auto kCrcTable = [] {
    std::array<std::uint64_t, 256> table{};
    for (std::uint64_t i = 0; i < table.size(); ++i) {
        std::uint64_t value = i;
        for (int bit = 0; bit < 8; ++bit) {
            value = (value >> 1U) ^ ((value & 1U) != 0 ? kPolynomial : 0);
        }
        table[i] = value;
    }
    return table;
}();

}  // namespace

std::uint64_t crc64(std::span<const std::byte> bytes) noexcept {
    std::uint64_t crc = ~std::uint64_t{0};
    for (const std::byte byte : bytes) {
        crc = (crc >> 8U) ^ kCrcTable[(crc ^ std::to_integer<std::uint64_t>(byte)) & 0xFFU];
    }
    return ~crc;
}

}  // namespace vmthaw
