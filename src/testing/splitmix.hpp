#pragma once

#include <cstdint>

namespace vmthaw::testing {

// A bijective scrambling of 64 bits (the finalizer of S. Vigna's splitmix64): equal inputs, equal outputs, everywhere.
[[nodiscard]] constexpr std::uint64_t mix64(std::uint64_t value) noexcept {
    value += 0x9E3779B97F4A7C15ULL;
    value = (value ^ (value >> 30U)) * 0xBF58476D1CE4E5B9ULL;
    value = (value ^ (value >> 27U)) * 0x94D049BB133111EBULL;
    return value ^ (value >> 31U);
}

// A small seeded generator, the same on every machine (the standard library's distributions are not). One thread.
class SplitMix {
public:
    constexpr explicit SplitMix(std::uint64_t seed) noexcept : state_(seed) {}
    constexpr std::uint64_t next() noexcept { return mix64(state_++ * 0xD1342543DE82EF95ULL); }
    // 0 <= result < bound, bound > 0. The bias below 2^-32 does not matter in tests.
    constexpr std::uint64_t below(std::uint64_t bound) noexcept { return next() % bound; }
    constexpr double unit() noexcept { return static_cast<double>(next() >> 11U) * 0x1.0p-53; }  // [0, 1)

private:
    std::uint64_t state_;
};

}  // namespace vmthaw::testing
