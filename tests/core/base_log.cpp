#include <gtest/gtest.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "allocation_counter.hpp"
#include "base/clock.hpp"
#include "base/log.hpp"
#include "base/thread.hpp"

namespace vmthaw {
namespace {

bool readable(int fd) {
    pollfd poll_fd{fd, POLLIN, 0};
    return ::poll(&poll_fd, 1, 0) == 1;
}

class Log : public ::testing::Test {
protected:
    void SetUp() override {
        drain_all();
        set_log_level(LogLevel::debug);
    }
    void TearDown() override {
        set_log_level(LogLevel::info);
        drain_all();
    }
    static std::vector<LogRecord> drain_all() {
        std::vector<LogRecord> records;
        while (drain_log(records, 1000) == 1000) {
        }
        return records;
    }
};

TEST_F(Log, ALineCarriesItsComponentLevelThreadAndTime) {
    const std::uint64_t before = monotonic_ns();
    std::thread thread = start_thread("base-log-test", [] { log_line(LogLevel::warning, "pager", "a {} line"); });
    thread.join();
    const std::vector<LogRecord> records = drain_all();
    ASSERT_EQ(records.size(), 1U);
    EXPECT_STREQ(records[0].component, "pager");
    EXPECT_EQ(records[0].level, LogLevel::warning);
    EXPECT_EQ(records[0].text_view(), "a {} line");
    EXPECT_FALSE(records[0].truncated);
    EXPECT_STREQ(records[0].thread_name.data(), "base-log-test");
    EXPECT_GT(records[0].tid, 0);
    EXPECT_NE(records[0].tid, static_cast<std::int32_t>(::getpid()));
    EXPECT_GE(records[0].t_ns, before);
    EXPECT_LE(records[0].t_ns, monotonic_ns());
}

TEST_F(Log, LongTextIsCutBetweenCharactersAndSaysSo) {
    const std::string fits(LogRecord::kTextBytes, 'x');
    log_line(LogLevel::info, "test", fits);
    log_line(LogLevel::info, "test", std::string(LogRecord::kTextBytes - 1, 'x') + "\xE2\x82\xAC");
    const std::vector<LogRecord> records = drain_all();
    ASSERT_EQ(records.size(), 2U);
    EXPECT_EQ(records[0].text_view(), fits);
    EXPECT_FALSE(records[0].truncated);
    EXPECT_EQ(records[1].text_view(), std::string(LogRecord::kTextBytes - 1, 'x'));
    EXPECT_TRUE(records[1].truncated);
}

TEST_F(Log, LinesBelowTheLevelAreNotWritten) {
    set_log_level(LogLevel::warning);
    log_line(LogLevel::info, "test", "no");
    log_line(LogLevel::error, "test", "yes");
    const std::vector<LogRecord> records = drain_all();
    ASSERT_EQ(records.size(), 1U);
    EXPECT_EQ(records[0].text_view(), "yes");
}

TEST_F(Log, ABurstWakesOnceAndLeftLinesKeepTheDescriptorReadable) {
    const int fd = log_fd();
    drain_all();
    ASSERT_FALSE(readable(fd));
    for (int i = 0; i < 10; ++i) {
        log_line(LogLevel::info, "test", "burst");
    }
    std::uint64_t wakes = 0;
    ASSERT_EQ(::read(fd, &wakes, sizeof wakes), static_cast<ssize_t>(sizeof wakes));
    EXPECT_EQ(wakes, 1U);
    std::vector<LogRecord> records;
    EXPECT_EQ(drain_log(records, 4), 4U);
    EXPECT_TRUE(readable(fd));
    EXPECT_EQ(drain_log(records, 100), 6U);
    EXPECT_FALSE(readable(fd));
    log_line(LogLevel::info, "test", "armed again");
    EXPECT_TRUE(readable(fd));
}

TEST_F(Log, FourThreadsLoseOnlyWhatIsCountedAndNoWakeUp) {
    constexpr std::uint64_t kThreads = 4;
    constexpr std::uint64_t kLines = 20'000;
    const std::uint64_t dropped_before = log_dropped();
    const int fd = log_fd();
    std::atomic<std::uint64_t> running{kThreads};
    std::vector<std::thread> threads;
    for (std::uint64_t i = 0; i < kThreads; ++i) {
        threads.push_back(start_thread("writer", [&] {
            for (std::uint64_t line = 0; line < kLines; ++line) {
                log_line(LogLevel::info, "test", "from one of four");
            }
            running.fetch_sub(1);
        }));
    }
    std::uint64_t received = 0;
    const std::uint64_t deadline = monotonic_ns() + 20'000'000'000U;
    // Only ever drains when woken: a lost wake-up would end by the deadline.
    while (received + (log_dropped() - dropped_before) < kThreads * kLines && monotonic_ns() < deadline) {
        pollfd poll_fd{fd, POLLIN, 0};
        if (::poll(&poll_fd, 1, 100) == 1) {
            std::vector<LogRecord> records;
            received += drain_log(records, 256);
        }
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    EXPECT_GT(received, 0U);
    EXPECT_EQ(received + (log_dropped() - dropped_before), kThreads * kLines);
}

TEST_F(Log, ALineAllocatesNothingNotEvenAThreadsFirst) {
    std::uint64_t allocated = 1;
    std::thread thread = start_thread("first-line", [&] {
        const std::uint64_t before = allocations_of_this_thread();
        for (int i = 0; i < 5000; ++i) {  // into the full ring as well
            log_line(LogLevel::error, "test", "this text is longer than any small-string buffer there is");
        }
        allocated = allocations_of_this_thread() - before;
    });
    thread.join();
    EXPECT_EQ(allocated, 0U);
    const std::uint64_t before = allocations_of_this_thread();
    ::operator delete(::operator new(1));  // a new-expression may be left out
    EXPECT_EQ(allocations_of_this_thread(), before + 1) << "the counter does not count";
}

TEST_F(Log, AForkedChildHasItsOwnEmptyLogAndDescriptor) {
    const int fd = log_fd();
    drain_all();
    log_line(LogLevel::info, "test", "the parent's");
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        std::vector<LogRecord> records;
        bool good = drain_log(records, 100) == 0;
        (void)log_fd();
        log_line(LogLevel::info, "test", "the child's");
        good = good && drain_log(records, 100) == 1 && records[0].text_view() == "the child's";
        good = good && records[0].tid == static_cast<std::int32_t>(::getpid());
        ::_exit(good ? 0 : 1);
    }
    int status = -1;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
    EXPECT_TRUE(readable(fd)) << "the child took the parent's wake-up";
    EXPECT_EQ(drain_all().size(), 1U);
}

TEST(LogSpeed, OneLineCosts) {
    constexpr int kLines = 1000;
    std::vector<LogRecord> records;
    records.reserve(4096);
    std::uint64_t best = ~std::uint64_t{0};
    for (int round = 0; round < 50; ++round) {
        const std::uint64_t start = monotonic_ns();
        for (int i = 0; i < kLines; ++i) {
            log_line(LogLevel::info, "test", "a line of the usual length, about sixty characters of it");
        }
        best = std::min(best, (monotonic_ns() - start) / kLines);
        records.clear();
        drain_log(records, 4096);
    }
    RecordProperty("ns_per_line", static_cast<int>(best));
    EXPECT_LT(best, 20'000U) << "a line went somewhere slow";
}

}  // namespace
}  // namespace vmthaw
