// RequestQueue and the source on top of it: readers on one side, the threads that answer on the other.
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <fstream>
#include <optional>
#include <string>
#include <thread>

#include "source/python/python_source.hpp"
#include "source/python/request_queue.hpp"
#include "source_support.hpp"

namespace vmthaw::source_tests {
namespace {

using std::chrono::milliseconds;

// A reader on its own thread, and its answer.
class Reader {
public:
    Reader(RequestQueue& queue, std::uint64_t offset, std::uint64_t size)
        : out_(size), thread_([this, &queue, offset] { result_ = queue.ask(offset, out_); }) {}
    ReadResult wait() {
        thread_.join();
        return result_;
    }
    [[nodiscard]] const std::vector<std::byte>& out() const { return out_; }

private:
    std::vector<std::byte> out_;
    ReadResult result_;
    std::thread thread_;
};

TEST(SourceQueue, AnAnswerReachesTheReaderThatAsked) {
    RequestQueue queue(8, milliseconds(10000));
    Reader first(queue, 3 * kPage, kPage);
    const auto request = queue.next(milliseconds(10000));
    ASSERT_TRUE(request);
    EXPECT_EQ(request->offset, 3 * kPage);
    EXPECT_EQ(request->size, kPage);
    EXPECT_TRUE(queue.complete(request->id, bytes_at(3 * kPage, kPage)));
    EXPECT_TRUE(first.wait().ok());
    EXPECT_EQ(first.out(), bytes_at(3 * kPage, kPage));
    EXPECT_FALSE(queue.complete(request->id, bytes_at(0, kPage))) << "a request was answered twice";
}

TEST(SourceQueue, TooFewBytesAreAShortReadAndTooManyAnError) {
    RequestQueue queue(8, milliseconds(10000));
    Reader few(queue, 0, kPage);
    queue.complete(queue.next(milliseconds(10000))->id, bytes_at(0, 100));
    const ReadResult short_read = few.wait();
    EXPECT_EQ(short_read.status, ReadStatus::short_read);
    EXPECT_EQ(short_read.got_bytes, 100U);
    Reader many(queue, 0, kPage);
    queue.complete(queue.next(milliseconds(10000))->id, bytes_at(0, kPage + 1));
    const ReadResult too_long = many.wait();
    EXPECT_EQ(too_long.status, ReadStatus::io_error);
    EXPECT_EQ(too_long.errno_value, EMSGSIZE);
}

TEST(SourceQueue, AFailureKeepsItsErrno) {
    RequestQueue queue(8, milliseconds(10000));
    Reader reader(queue, 0, kPage);
    EXPECT_TRUE(queue.fail(queue.next(milliseconds(10000))->id, EREMOTEIO));
    EXPECT_EQ(reader.wait().errno_value, EREMOTEIO);
}

TEST(SourceQueue, WhatWasSaidOfAFailureIsKeptByItsErrno) {
    RequestQueue queue(8, milliseconds(10000));
    EXPECT_EQ(queue.why(EREMOTEIO), "");
    EXPECT_FALSE(queue.fail(77, EREMOTEIO, "nobody waits for it"));
    EXPECT_EQ(queue.why(EREMOTEIO), "nobody waits for it");
    queue.fail(78, EREMOTEIO, "later");
    queue.fail(79, EREMOTEIO);
    queue.fail(80, ESTALE, "another");
    EXPECT_EQ(queue.why(EREMOTEIO), "later");
    for (int number = 1000; number < 1020; ++number) {
        queue.fail(81, number, "of many");
    }
    EXPECT_EQ(queue.why(1019), "of many");
    EXPECT_EQ(queue.why(EREMOTEIO), "") << "more is kept than there is room for";
}

TEST(SourceQueue, AReadThatNobodyAnswersSaysForHowLong) {
    PythonSource source(kPage, {}, "slow", milliseconds(20), 8);
    std::vector<std::byte> out(kPage);
    const ReadResult result = source.read(0, out);
    EXPECT_EQ(result.errno_value, ETIMEDOUT);
    EXPECT_NE(source.remedy(result).find("no answer for 20 ms"), std::string::npos) << source.remedy(result);
}

TEST(SourceQueue, AReaderGivesUpInTimeAndALateAnswerTouchesNothing) {
    RequestQueue queue(8, milliseconds(20));
    Reader taken(queue, 0, kPage);
    const auto request = queue.next(milliseconds(10000));
    EXPECT_EQ(taken.wait().errno_value, ETIMEDOUT);
    ASSERT_TRUE(request);
    EXPECT_FALSE(queue.complete(request->id, bytes_at(0, kPage)));
    EXPECT_TRUE(all_zero(taken.out()));
    Reader waiting(queue, 0, kPage);
    EXPECT_EQ(waiting.wait().errno_value, ETIMEDOUT);
    EXPECT_FALSE(queue.next(milliseconds(0))) << "a reader that has left is still in the queue";
}

TEST(SourceQueue, AFullQueueMakesReadersWaitForRoom) {
    RequestQueue queue(1, milliseconds(10000));
    std::atomic<int> done{0};
    std::vector<std::thread> readers;
    for (int i = 0; i < 4; ++i) {
        readers.emplace_back([&] {
            std::vector<std::byte> out(kPage);
            done += queue.ask(0, out).ok() ? 1 : 0;
        });
    }
    for (int i = 0; i < 4; ++i) {
        const auto request = queue.next(milliseconds(10000));
        ASSERT_TRUE(request);
        EXPECT_TRUE(queue.complete(request->id, bytes_at(0, kPage)));
    }
    for (std::thread& reader : readers) {
        reader.join();
    }
    EXPECT_EQ(done, 4);
    RequestQueue stuck(1, milliseconds(30));
    Reader first(stuck, 0, kPage);
    Reader second(stuck, 0, kPage);
    EXPECT_EQ(first.wait().errno_value, ETIMEDOUT);
    EXPECT_EQ(second.wait().errno_value, ETIMEDOUT);
}

TEST(SourceQueue, CloseEndsEveryWaitOnBothSides) {
    RequestQueue queue(8, milliseconds(60000));
    Reader taken(queue, 0, kPage);
    const auto request = queue.next(milliseconds(10000));
    Reader waiting(queue, 0, kPage);
    std::thread server([&] {
        while (!queue.is_closed()) {
            // Takes what waits and never answers.
            static_cast<void>(queue.next(milliseconds(60000)));
        }
    });
    queue.close();
    queue.close();
    server.join();
    EXPECT_EQ(taken.wait().status, ReadStatus::closed);
    EXPECT_EQ(waiting.wait().status, ReadStatus::closed);
    EXPECT_FALSE(queue.complete(request->id, bytes_at(0, kPage)));
    EXPECT_FALSE(queue.next(milliseconds(60000)));
    std::vector<std::byte> out(kPage);
    EXPECT_EQ(queue.ask(0, out).status, ReadStatus::closed);
}

TEST(SourceQueue, RacingAnswersTimeOutsAndCloseLoseNothing) {
    for (int round = 0; round < 40; ++round) {
        RequestQueue queue(2, milliseconds(1 + round % 3));
        std::atomic<int> wrong{0};
        std::vector<std::thread> threads;
        for (std::uint64_t reader = 0; reader < 3; ++reader) {
            threads.emplace_back([&, reader] {
                std::vector<std::byte> out(8 * kPage);
                for (std::uint64_t i = 0; i < 20; ++i) {
                    const std::uint64_t offset = (reader * 100 + i) * kPage;
                    std::fill(out.begin(), out.end(), std::byte{0});
                    if (queue.ask(offset, out).ok() && out != bytes_at(offset, 8 * kPage)) {
                        ++wrong;
                    }
                }
            });
        }
        std::vector<std::thread> servers;
        for (int server = 0; server < 2; ++server) {
            servers.emplace_back([&] {
                while (!queue.is_closed()) {
                    const auto request = queue.next(milliseconds(5));
                    if (request) {
                        queue.complete(request->id, bytes_at(request->offset, request->size));
                    }
                }
            });
        }
        if (round % 2 == 0) {
            queue.close();
        }
        for (std::thread& thread : threads) {
            thread.join();
        }
        queue.close();
        for (std::thread& thread : servers) {
            thread.join();
        }
        ASSERT_EQ(wrong, 0);
    }
}

// Whether a thread of this process sleeps in the kernel.
bool sleeps(pid_t thread) {
    std::ifstream file("/proc/self/task/" + std::to_string(thread) + "/stat");
    std::string text;
    std::getline(file, text);
    const std::size_t name_end = text.rfind(')');
    return name_end != std::string::npos && text.size() > name_end + 2 && text[name_end + 2] == 'S';
}

TEST(SourceQueue, IsInertInAForkedChildAlthoughItsThreadsWereWaiting) {
    auto queue = std::make_unique<RequestQueue>(8, milliseconds(60000));
    std::atomic<pid_t> server_thread{0};
    std::thread server([&] {
        server_thread = static_cast<pid_t>(::syscall(SYS_gettid));
        while (!queue->is_closed()) {
            static_cast<void>(queue->next(milliseconds(60000)));
        }
    });
    while (server_thread == 0 || !sleeps(server_thread)) {
        std::this_thread::yield();
    }
    const pid_t child = ::fork();
    if (child == 0) {
        ::alarm(10);
        std::vector<std::byte> out(kPage);
        const bool inert = queue->ask(0, out).status == ReadStatus::closed && !queue->next(milliseconds(60000)) &&
                           !queue->complete(1, out) && queue->is_closed();
        queue->close();
        queue.reset();  // destroying a condition variable with waiters would hang
        ::_exit(inert ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    queue->close();
    server.join();
}

TEST(SourceQueue, RefusesSettingsThatCouldNeverAnswer) {
    EXPECT_THROW(RequestQueue(0, milliseconds(1)), ArgumentError);
    EXPECT_THROW(RequestQueue(1, milliseconds(0)), ArgumentError);
}

TEST(SourcePython, AsksForDataOnlyAndJoinsItWithZeros) {
    PythonSource source(
        4 * kPage,
        {{0, kPage, ExtentKind::data}, {kPage, 2 * kPage, ExtentKind::zero}, {3 * kPage, kPage, ExtentKind::data}},
        "test", milliseconds(10000), 8);
    std::vector<std::uint64_t> asked;
    std::thread server([&] {
        while (const auto request = source.requests()->next(milliseconds(60000))) {
            asked.push_back(request->offset);
            source.requests()->complete(request->id, bytes_at(request->offset, request->size));
        }
    });
    std::vector<std::byte> out(4 * kPage, std::byte{0xee});
    ASSERT_TRUE(source.read(0, out).ok());
    EXPECT_TRUE(std::ranges::equal(std::span(out).first(kPage), bytes_at(0, kPage)));
    EXPECT_TRUE(all_zero(std::span(out).subspan(kPage, 2 * kPage)));
    EXPECT_TRUE(std::ranges::equal(std::span(out).subspan(3 * kPage), bytes_at(3 * kPage, kPage)));
    EXPECT_TRUE(source.ready(kPage, 2 * kPage));
    EXPECT_FALSE(source.ready(kPage, 3 * kPage));
    EXPECT_FALSE(source.ready(0, kPage));
    source.close();
    server.join();
    EXPECT_EQ(asked, (std::vector<std::uint64_t>{0, 3 * kPage}));
    EXPECT_EQ(source.read(0, out).status, ReadStatus::closed);
}

TEST(SourcePython, HasZerosBehindItsEndToTheEndOfTheLastPage) {
    constexpr std::uint64_t kSize = 2 * kPage + 100;
    PythonSource source(kSize, {}, "test", milliseconds(10000), 8);
    std::vector<std::uint64_t> asked;
    std::thread server([&] {
        while (const auto request = source.requests()->next(milliseconds(60000))) {
            asked.push_back(request->size);
            source.requests()->complete(request->id, bytes_at(request->offset, request->size));
        }
    });
    std::vector<std::byte> out(kPage, std::byte{0xee});
    ASSERT_TRUE(source.read(2 * kPage, out).ok());
    EXPECT_TRUE(std::ranges::equal(std::span(out).first(100), bytes_at(2 * kPage, 100)));
    EXPECT_TRUE(all_zero(std::span(out).subspan(100)));
    EXPECT_TRUE(source.covers(0, 3 * kPage));
    EXPECT_FALSE(source.covers(0, 3 * kPage + 1));
    EXPECT_FALSE(source.covers(kSize + 1, 1));
    EXPECT_EQ(source.read(kSize, out).status, ReadStatus::out_of_range);
    EXPECT_EQ(source.read(3 * kPage, out).status, ReadStatus::out_of_range);
    source.close();
    server.join();
    EXPECT_EQ(asked, (std::vector<std::uint64_t>{100}));
}

TEST(SourcePython, RefusesExtentsThatLeaveDoubt) {
    const auto refused = [](std::vector<Extent> extents) {
        try {
            const PythonSource source(4 * kPage, std::move(extents), "test", milliseconds(1000), 1);
        } catch (const ArgumentError&) {
            return true;
        }
        return false;
    };
    EXPECT_FALSE(refused({}));
    EXPECT_FALSE(refused({{0, 4 * kPage, ExtentKind::zero}}));
    EXPECT_TRUE(refused({{0, 3 * kPage, ExtentKind::zero}})) << "the end is left out";
    EXPECT_TRUE(refused({{0, kPage, ExtentKind::zero}, {2 * kPage, 2 * kPage, ExtentKind::data}})) << "a gap";
    EXPECT_TRUE(refused({{0, 3 * kPage, ExtentKind::zero}, {2 * kPage, 2 * kPage, ExtentKind::data}})) << "overlap";
    EXPECT_TRUE(refused({{0, 5 * kPage, ExtentKind::zero}})) << "too long";
    EXPECT_FALSE(refused({{0, 100, ExtentKind::zero}, {100, 4 * kPage - 100, ExtentKind::data}})) << "inside a page";
    EXPECT_TRUE(refused({{0, 100, ExtentKind::zero}, {90, 4 * kPage - 90, ExtentKind::data}})) << "overlap in a page";
    EXPECT_TRUE(refused({{0, 4 * kPage, ExtentKind::unchanged}}));
    EXPECT_TRUE(refused({{0, 0, ExtentKind::data}, {0, 4 * kPage, ExtentKind::data}})) << "empty";
}

}  // namespace
}  // namespace vmthaw::source_tests
