#include "source/xxh64.hpp"

#include <array>
#include <bit>
#include <cstring>

namespace vmthaw {
namespace {

constexpr std::uint64_t kPrime1 = 0x9E3779B185EBCA87U;
constexpr std::uint64_t kPrime2 = 0xC2B2AE3D27D4EB4FU;
constexpr std::uint64_t kPrime3 = 0x165667B19E3779F9U;
constexpr std::uint64_t kPrime4 = 0x85EBCA77C2B2AE63U;
constexpr std::uint64_t kPrime5 = 0x27D4EB2F165667C5U;

template <typename Value>
Value take_input(std::span<const std::byte>& rest) noexcept {
    static_assert(std::endian::native == std::endian::little);
    Value value{};
    std::memcpy(&value, rest.data(), sizeof(Value));
    rest = rest.subspan(sizeof(Value));
    return value;
}

constexpr std::uint64_t round_of(std::uint64_t lane, std::uint64_t input) noexcept {
    return std::rotl(lane + input * kPrime2, 31) * kPrime1;
}

}  // namespace

std::uint64_t xxh64(std::span<const std::byte> bytes) noexcept {
    std::span<const std::byte> rest = bytes;
    std::uint64_t hash = kPrime5;
    std::array<std::uint64_t, 4> lanes{kPrime1 + kPrime2, kPrime2, 0, 0 - kPrime1};
    if (rest.size() >= sizeof lanes) {
        while (rest.size() >= sizeof lanes) {
            for (std::uint64_t& lane : lanes) {
                lane = round_of(lane, take_input<std::uint64_t>(rest));
            }
        }
        hash = std::rotl(lanes[0], 1) + std::rotl(lanes[1], 7) + std::rotl(lanes[2], 12) + std::rotl(lanes[3], 18);
        for (const std::uint64_t lane : lanes) {
            hash = (hash ^ round_of(0, lane)) * kPrime1 + kPrime4;
        }
    }
    hash += bytes.size();
    while (rest.size() >= 8) {
        hash = std::rotl(hash ^ round_of(0, take_input<std::uint64_t>(rest)), 27) * kPrime1 + kPrime4;
    }
    if (rest.size() >= 4) {
        hash = std::rotl(hash ^ (take_input<std::uint32_t>(rest) * kPrime1), 23) * kPrime2 + kPrime3;
    }
    while (!rest.empty()) {
        hash = std::rotl(hash ^ (take_input<std::uint8_t>(rest) * kPrime5), 11) * kPrime1;
    }
    hash = (hash ^ (hash >> 33U)) * kPrime2;
    hash = (hash ^ (hash >> 29U)) * kPrime3;
    return hash ^ (hash >> 32U);
}

}  // namespace vmthaw
