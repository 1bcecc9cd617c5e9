// When a worker reads a descriptor again without asking epoll.
#include <gtest/gtest.h>

#include "pager/reread_chance.hpp"

namespace vmthaw {
namespace {

unsigned tries_in(RereadChance& chance, unsigned answers) {
    unsigned tries = 0;
    for (unsigned i = 0; i < answers; ++i) {
        if (chance.is_good(0)) {
            ++tries;
            chance.note(false);
        }
    }
    return tries;
}

TEST(RereadChance, IsTriedNowAndThenWhereItNeverPays) {
    RereadChance chance;
    EXPECT_EQ(tries_in(chance, 10 * RereadChance::kTryEvery), 10U);
}

TEST(RereadChance, IsTakenAgainAndAgainOnceItPaid) {
    RereadChance chance;
    chance.note(true);
    EXPECT_TRUE(chance.is_good(0));
    chance.note(true);
    EXPECT_TRUE(chance.is_good(1));
}

TEST(RereadChance, IsGivenUpSoonWhenItPaysNoLonger) {
    RereadChance chance;
    for (int i = 0; i < 1000; ++i) {
        chance.note(true);
    }
    EXPECT_EQ(tries_in(chance, RereadChance::kTryEvery / 2), static_cast<unsigned>(RereadChance::kHighest));
}

TEST(RereadChance, EndsSoThatOtherVmsHaveTheirTurn) {
    RereadChance chance;
    chance.note(true);
    EXPECT_TRUE(chance.is_good(RereadChance::kMostInARow - 1));
    EXPECT_FALSE(chance.is_good(RereadChance::kMostInARow));
}

}  // namespace
}  // namespace vmthaw
