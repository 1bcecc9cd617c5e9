// ChunkCache: who waits, who brings, and what stays.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "allocation_counter.hpp"
#include "source/cached/chunk_cache.hpp"
#include "source_support.hpp"

namespace vmthaw::source_tests {
namespace {

constexpr std::uint64_t kChunk = 2 * kPage;

// Chunk n holds the pattern of position n * kChunk; loads can be held up and can fail.
class Loader final : public ChunkLoader {
public:
    ReadResult load(std::uint64_t chunk, std::span<std::byte> room) noexcept override {
        std::unique_lock lock(mutex_);
        ++loads_;
        ++running_;
        changed_.notify_all();
        changed_.wait(lock, [this] { return !held_; });
        --running_;
        if (fails_) {
            return {.status = ReadStatus::io_error, .errno_value = EBADMSG};
        }
        lock.unlock();
        std::ranges::copy(bytes_at(chunk * kChunk, kChunk), room.begin());
        return {};
    }
    void hold(bool held) {
        const std::lock_guard lock(mutex_);
        held_ = held;
        changed_.notify_all();
    }
    void fail(bool fails) {
        const std::lock_guard lock(mutex_);
        fails_ = fails;
    }
    void wait_for_running(int count) {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return running_ == count; });
    }
    int loads() {
        const std::lock_guard lock(mutex_);
        return loads_;
    }

private:
    std::mutex mutex_;
    std::condition_variable changed_;
    bool held_ = false;
    bool fails_ = false;
    int loads_ = 0;
    int running_ = 0;
};

class Cache : public ::testing::Test {
protected:
    void make(std::uint64_t chunks, std::uint64_t room_for) {
        cache_.emplace(loader_, chunks, kChunk, room_for * kChunk);
    }
    ReadResult read(std::uint64_t chunk) {
        std::vector<std::byte> out(kPage);
        const ReadResult result = cache_->read(chunk, kPage, out);
        if (result.ok()) {
            EXPECT_EQ(out, bytes_at(chunk * kChunk + kPage, kPage)) << chunk;
        }
        return result;
    }
    void wait_for_joins(std::uint64_t joins) {
        while (cache_->stats().joins < joins) {
            std::this_thread::yield();
        }
    }

    Loader loader_;
    std::optional<ChunkCache> cache_;
};

using SourceChunkCache = Cache;

TEST_F(SourceChunkCache, BringsAChunkOnceHoweverManyWaitForIt) {
    make(8, 4);
    loader_.hold(true);
    std::vector<std::thread> threads;
    for (int i = 0; i < 6; ++i) {
        threads.emplace_back([this] { EXPECT_TRUE(read(3).ok()); });
    }
    wait_for_joins(5);
    loader_.hold(false);
    for (std::thread& thread : threads) {
        thread.join();
    }
    EXPECT_EQ(loader_.loads(), 1);
    EXPECT_EQ(cache_->stats().loads, 1U);
    EXPECT_TRUE(read(3).ok());
    EXPECT_EQ(loader_.loads(), 1);
}

TEST_F(SourceChunkCache, WakesAllWhoWaitedWhenALoadFailsAndTriesAnewForTheNext) {
    make(8, 4);
    loader_.hold(true);
    loader_.fail(true);
    std::atomic<int> failed{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
        threads.emplace_back([&] { failed += read(3).errno_value == EBADMSG ? 1 : 0; });
    }
    wait_for_joins(3);
    loader_.hold(false);
    for (std::thread& thread : threads) {
        thread.join();
    }
    EXPECT_EQ(failed, 4);
    EXPECT_EQ(cache_->stats().failures, 1U);
    EXPECT_FALSE(cache_->holds(3));
    loader_.fail(false);
    EXPECT_TRUE(read(3).ok());
}

TEST_F(SourceChunkCache, AnswersForOtherChunksWhileOneIsSlow) {
    make(8, 4);
    EXPECT_TRUE(read(1).ok());
    loader_.hold(true);
    std::thread slow([this] { EXPECT_TRUE(read(2).ok()); });
    loader_.wait_for_running(1);
    std::vector<std::byte> out(kPage);
    EXPECT_TRUE(cache_->read_now(1, 0, out));
    EXPECT_EQ(out, bytes_at(kChunk, kPage));
    EXPECT_FALSE(cache_->read_now(2, 0, out)) << "it is not there yet";
    loader_.hold(false);
    slow.join();
    EXPECT_TRUE(cache_->read_now(2, 0, out));
}

TEST_F(SourceChunkCache, HoldsNoMoreThanItsBytesAndKeepsWhatIsUsed) {
    make(100, 4);
    EXPECT_EQ(cache_->capacity_chunks(), 4U);
    std::vector<std::byte> out(kPage);
    for (std::uint64_t chunk = 0; chunk < 100; ++chunk) {
        EXPECT_TRUE(read(chunk).ok());
        if (chunk >= 1) {
            EXPECT_TRUE(cache_->read_now(1, 0, out)) << chunk;
        }
    }
    std::uint64_t held = 0;
    for (std::uint64_t chunk = 0; chunk < 100; ++chunk) {
        held += cache_->holds(chunk) ? 1 : 0;
    }
    EXPECT_EQ(held, 4U);
    EXPECT_EQ(cache_->stats().evictions, 96U);
    EXPECT_EQ(loader_.loads(), 100);
}

TEST_F(SourceChunkCache, MakesALoadWaitWhileEveryRoomIsTaken) {
    make(8, 2);
    loader_.hold(true);
    std::vector<std::thread> threads;
    for (std::uint64_t chunk = 0; chunk < 4; ++chunk) {
        threads.emplace_back([this, chunk] { EXPECT_TRUE(read(chunk).ok()); });
    }
    loader_.wait_for_running(2);
    loader_.hold(false);
    for (std::thread& thread : threads) {
        thread.join();
    }
    EXPECT_EQ(loader_.loads(), 4);
}

TEST_F(SourceChunkCache, CloseEndsTheWaitsAndWhatIsLoadingEndsByItself) {
    make(8, 2);
    loader_.hold(true);
    std::atomic<int> closed{0};
    std::vector<std::thread> threads;
    for (std::uint64_t chunk : {0U, 1U, 2U, 0U, 1U, 2U}) {
        threads.emplace_back([&, chunk] { closed += read(chunk).status == ReadStatus::closed ? 1 : 0; });
    }
    loader_.wait_for_running(2);
    wait_for_joins(3);
    cache_->close();
    while (closed < 4) {
        std::this_thread::yield();
    }
    loader_.hold(false);
    for (std::thread& thread : threads) {
        thread.join();
    }
    EXPECT_EQ(read(0).status, ReadStatus::closed);
    std::vector<std::byte> out(kPage);
    EXPECT_FALSE(cache_->read_now(0, 0, out));
}

TEST_F(SourceChunkCache, AllocatesNothingForAChunkThatIsHeld) {
    make(8, 4);
    EXPECT_TRUE(read(5).ok());
    std::vector<std::byte> out(kPage);
    const std::uint64_t before = allocations_of_this_thread();
    const bool held = cache_->read_now(5, 0, out);
    const bool missing = cache_->read_now(6, 0, out);
    EXPECT_EQ(allocations_of_this_thread(), before);
    EXPECT_TRUE(held && !missing);
}

TEST_F(SourceChunkCache, RacingReadersOfFewRoomsNeverSeeAnotherChunksBytes) {
    make(40, 3);
    std::vector<std::thread> threads;
    for (unsigned seed = 0; seed < 4; ++seed) {
        threads.emplace_back([this, seed] {
            std::mt19937 random(seed);
            std::vector<std::byte> out(64);
            for (int i = 0; i < 4000; ++i) {
                const std::uint64_t chunk = random() % 2 == 0 ? random() % 4 : random() % 40;
                const std::uint64_t offset = random() % (kChunk - out.size());
                const bool copied =
                    random() % 2 == 0 ? cache_->read_now(chunk, offset, out) : cache_->read(chunk, offset, out).ok();
                if (copied) {
                    ASSERT_EQ(out, bytes_at(chunk * kChunk + offset, out.size()));
                }
            }
        });
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    const ChunkCacheStats stats = cache_->stats();
    EXPECT_EQ(stats.loads, static_cast<std::uint64_t>(loader_.loads()));
    EXPECT_LE(stats.loads - stats.evictions, 3U);
}

TEST_F(SourceChunkCache, IsInertInAForkedChildAlthoughItsThreadsWereWaiting) {
    make(8, 4);
    EXPECT_TRUE(read(1).ok());
    loader_.hold(true);
    std::thread first([this] { EXPECT_TRUE(read(2).ok()); });
    std::thread second([this] { EXPECT_TRUE(read(2).ok()); });
    wait_for_joins(1);
    const pid_t child = ::fork();
    if (child == 0) {
        ::alarm(10);
        std::vector<std::byte> out(kPage);
        const bool inert = cache_->read(2, 0, out).status == ReadStatus::closed && !cache_->read_now(1, 0, out);
        cache_->close();
        cache_.reset();  // destroying a condition variable with waiters would hang
        ::_exit(inert ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    loader_.hold(false);
    first.join();
    second.join();
}

}  // namespace
}  // namespace vmthaw::source_tests
