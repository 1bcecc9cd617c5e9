#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "base/ring.hpp"

namespace vmthaw {
namespace {

// Wide enough that a torn copy would show.
struct Wide {
    std::uint64_t producer;
    std::uint64_t number;
    std::array<std::uint64_t, 6> copies;
};

Wide wide(std::uint64_t producer, std::uint64_t number) {
    Wide record{producer, number, {}};
    record.copies.fill(producer << 32U | number);
    return record;
}

TEST(Ring, GivesBackWhatWentInInOrder) {
    Ring<int> ring(4);
    for (int lap = 0; lap < 5; ++lap) {
        EXPECT_TRUE(ring.push(lap));
        EXPECT_TRUE(ring.push(lap + 100));
        int value = -1;
        EXPECT_TRUE(ring.pop(value));
        EXPECT_EQ(value, lap);
        EXPECT_TRUE(ring.pop(value));
        EXPECT_EQ(value, lap + 100);
        EXPECT_FALSE(ring.pop(value));
    }
    EXPECT_EQ(ring.dropped(), 0U);
}

TEST(Ring, DropsAndCountsWhenFullAndKeepsTheOldest) {
    Ring<int> ring(3);  // rounded up
    ASSERT_EQ(ring.capacity(), 4U);
    for (int i = 0; i < 10; ++i) {
        EXPECT_EQ(ring.push(i), i < 4);
    }
    EXPECT_EQ(ring.dropped(), 6U);
    int value = -1;
    for (int i = 0; i < 4; ++i) {
        ASSERT_TRUE(ring.pop(value));
        EXPECT_EQ(value, i);
    }
    EXPECT_FALSE(ring.pop(value));
    EXPECT_TRUE(ring.push(7));
}

TEST(Ring, ResetEmptiesItAndItsCounter) {
    Ring<int> ring(2);
    for (int i = 0; i < 5; ++i) {
        ring.push(i);
    }
    ring.reset();
    int value = -1;
    EXPECT_FALSE(ring.pop(value));
    EXPECT_EQ(ring.dropped(), 0U);
    EXPECT_TRUE(ring.push(1));
    EXPECT_TRUE(ring.pop(value));
    EXPECT_EQ(value, 1);
}

TEST(Ring, ManyProducersAndConsumersLoseOnlyWhatIsCounted) {
    constexpr std::uint64_t kProducers = 4;
    constexpr std::uint64_t kRecords = 50'000;
    Ring<Wide> ring(64);
    std::atomic<std::uint64_t> accepted{0};
    std::atomic<std::uint64_t> received{0};
    std::atomic<std::uint64_t> torn{0};
    std::atomic<std::uint64_t> disordered{0};
    std::atomic<bool> done{false};
    std::vector<std::atomic<std::uint8_t>> seen(kProducers * kRecords);

    std::vector<std::thread> consumers;
    for (int i = 0; i < 2; ++i) {
        consumers.emplace_back([&] {
            std::array<std::uint64_t, kProducers> next{};
            Wide record{};
            for (;;) {
                const bool last_look = done.load();
                if (ring.pop(record)) {
                    received.fetch_add(1);
                    for (const std::uint64_t copy : record.copies) {
                        torn.fetch_add(copy == (record.producer << 32U | record.number) ? 0U : 1U);
                    }
                    disordered.fetch_add(record.number >= next[record.producer] ? 0U : 1U);
                    next[record.producer] = record.number + 1;
                    seen[record.producer * kRecords + record.number].fetch_add(1);
                } else if (last_look) {
                    return;
                } else {
                    std::this_thread::yield();
                }
            }
        });
    }
    std::vector<std::thread> producers;
    for (std::uint64_t producer = 0; producer < kProducers; ++producer) {
        producers.emplace_back([&, producer] {
            for (std::uint64_t number = 0; number < kRecords; ++number) {
                if (ring.push(wide(producer, number))) {
                    accepted.fetch_add(1);
                } else {
                    std::this_thread::yield();  // let the consumers have their share
                }
            }
        });
    }
    for (std::thread& thread : producers) {
        thread.join();
    }
    done.store(true);
    for (std::thread& thread : consumers) {
        thread.join();
    }
    EXPECT_EQ(received.load(), accepted.load());
    EXPECT_EQ(accepted.load() + ring.dropped(), kProducers * kRecords);
    EXPECT_EQ(torn.load(), 0U);
    EXPECT_EQ(disordered.load(), 0U);
    for (const auto& times : seen) {
        ASSERT_LE(times.load(), 1);
    }
}

}  // namespace
}  // namespace vmthaw
