// A session against its double, request by request.
#include <gtest/gtest.h>

#include <cstdint>
#include <random>

#include "dax_play.hpp"

namespace vmthaw {
namespace {

void play(const DaxConfig& config, std::uint64_t steps) {
    const std::uint64_t seed = ::testing::UnitTest::GetInstance()->random_seed() != 0
                                   ? static_cast<std::uint64_t>(::testing::UnitTest::GetInstance()->random_seed())
                                   : std::random_device{}();
    std::mt19937_64 random(seed);
    oracle::Play game(config);
    for (std::uint64_t i = 0; i < steps; ++i) {
        game.step([&] { return random(); });
        ASSERT_EQ(game.problem(), "") << "step " << i << " of seed " << seed << " (--gtest_random_seed)";
    }
    game.finish();
    EXPECT_EQ(game.problem(), "") << "seed " << seed;
}

TEST(DaxProperty, LinuxsSequencesAndAnyOthersLeaveWhatTheOracleHas) {
    play({.guest_base = 0x80'0000'0000, .window_bytes = 64 * 4096, .granule_bytes = 4096}, 60'000);
}

TEST(DaxProperty, SoWithLargerGranulesAtAnotherBase) {
    play({.guest_base = 0, .window_bytes = 48 * 16384, .granule_bytes = 16384}, 25'000);
    play({.guest_base = 0xFFFF'FFFF'0000'0000, .window_bytes = 16 * 65536, .granule_bytes = 65536}, 25'000);
}

TEST(DaxProperty, SoWithAQuota) {
    play({.guest_base = 1U << 30U, .window_bytes = 64 * 4096, .granule_bytes = 4096, .quota_bytes = 20 * 4096}, 25'000);
}

TEST(DaxProperty, SoInAReadOnlyWindow) {
    play({.guest_base = 1U << 30U, .window_bytes = 32 * 4096, .granule_bytes = 4096, .read_only = true}, 5'000);
}

}  // namespace
}  // namespace vmthaw
