// Several threads on one session, as the readers of a device are; the thread sanitizer looks on.
#include <gtest/gtest.h>

#include <cerrno>
#include <cstdint>
#include <random>
#include <thread>
#include <vector>

#include "dax/window_mapper.hpp"
#include "dax_support.hpp"

namespace vmthaw {
namespace {

constexpr std::uint64_t kSmall = 16 * 4096;

void storm(bool takes_gil, std::uint64_t quota_bytes) {
    const auto backend = std::make_shared<LedgerBackend>(takes_gil);
    backend->add(1, 64 * kSmall);
    backend->add(2, 64 * kSmall);
    const auto mapper = std::make_shared<WindowMapper>(kBase, 8 * kSmall);
    DaxSession session(backend, mapper, {.guest_base = kBase, .window_bytes = 8 * kSmall, .quota_bytes = quota_bytes});
    std::vector<std::thread> threads;
    for (unsigned number = 0; number < 4; ++number) {
        threads.emplace_back([&, number] {
            std::mt19937 random(number);
            for (int i = 0; i < 1500; ++i) {
                const std::uint64_t first = random() % 8;
                const std::uint64_t bytes = (1 + random() % (8 - first)) * kSmall;
                switch (random() % 8) {
                    case 0:
                        EXPECT_EQ(session.reset(), 0);
                        break;
                    case 1:
                        static_cast<void>(session.mappings());
                        static_cast<void>(session.stats());
                        static_cast<void>(session.past_end());
                        break;
                    case 2:
                    case 3:
                        EXPECT_EQ(session.remove(RemoveMappingOne{first * kSmall, bytes}), 0);
                        break;
                    default: {
                        const int error = session.set_up(1 + random() % 2, set_up_of(first * kSmall, 0, bytes));
                        EXPECT_TRUE(error == 0 || (quota_bytes != 0 && error == ENOSPC)) << error;
                    }
                }
            }
        });
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    const DaxStats stats = session.stats();
    EXPECT_EQ(stats.leases_taken - stats.leases_released, backend->out());
    EXPECT_TRUE(quota_bytes == 0 || stats.mapped_bytes <= quota_bytes);
    // What the record says is what the window shows.
    std::byte byte{};
    std::uint64_t mapped = 0;
    for (std::uint64_t at = 0; at < 8 * kSmall; at += 4096) {
        const bool is_mapped = session.mapping_at(kBase + at).has_value();
        mapped += is_mapped ? 4096 : 0;
        EXPECT_EQ(mapper->read(kBase + at, {&byte, 1}), is_mapped ? 0 : EFAULT) << at;
    }
    EXPECT_EQ(stats.mapped_bytes, mapped);
    EXPECT_EQ(session.reset(), 0);
    EXPECT_EQ(backend->out(), 0U);
}

TEST(DaxThreads, RequestsOfSeveralThreadsLeaveRecordAndWindowInStep) { storm(false, 0); }

TEST(DaxThreads, SoWhenNoLockIsHeldOverBackendAndMapper) { storm(true, 0); }

TEST(DaxThreads, SoWithAQuota) {
    storm(false, 8 * kSmall / 2);
    storm(true, 8 * kSmall / 2);
}

}  // namespace
}  // namespace vmthaw
