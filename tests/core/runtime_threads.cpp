#include <gtest/gtest.h>
#include <sys/epoll.h>

#include <set>

#include "pager/session_gate.hpp"
#include "pager_support.hpp"

namespace vmthaw {
namespace {

using namespace pager_tests;

TEST(ControlLoop, SurvivesCallbacksThatThrow) {
    ControlLoop loop;
    loop.post([] { throw ArgumentError("on purpose"); });
    int runs = 0;
    loop.run_and_wait([&] { ++runs; });
    EXPECT_EQ(runs, 1);
    EXPECT_THROW(loop.run_and_wait([] { throw ArgumentError("on purpose"); }), ArgumentError);
    loop.run_and_wait([&] { loop.call_after(0, [] { throw ArgumentError("on purpose"); }); });
    EXPECT_TRUE(eventually([&] {
        loop.run_and_wait([&] { ++runs; });
        return runs > 5;
    }));
}

TEST(ControlLoop, TimersRunInOrderAndCancelledOnesDoNot) {
    ControlLoop loop;
    std::vector<int> seen;
    std::atomic<bool> done{false};
    loop.run_and_wait([&] {
        loop.call_after(20'000'000, [&] {
            seen.push_back(3);
            done = true;
        });
        const ControlLoop::TimerId cancelled = loop.call_after(5'000'000, [&] { seen.push_back(0); });
        loop.call_after(10'000'000, [&] { seen.push_back(2); });
        loop.call_after(1'000'000, [&] { seen.push_back(1); });
        loop.call_after(~std::uint64_t{0}, [&] { seen.push_back(4); });
        loop.cancel(cancelled);
    });
    ASSERT_TRUE(eventually([&] { return done.load(); }));
    loop.stop();
    EXPECT_EQ(seen, (std::vector<int>{1, 2, 3}));
}

TEST(ControlLoop, AWatchMayEndItselfAndOthersOfItsBatch) {
    ControlLoop loop;
    const EventFd first;
    const EventFd second;
    std::atomic<int> calls{0};
    loop.run_and_wait([&] {
        const auto once = [&](std::uint32_t) {
            loop.unwatch(first.fd());
            loop.unwatch(second.fd());
            ++calls;
        };
        loop.watch(first.fd(), EPOLLIN, once);
        loop.watch(second.fd(), EPOLLIN, once);
        first.signal();
        second.signal();
    });
    ASSERT_TRUE(eventually([&] { return calls > 0; }));
    loop.run_and_wait([] {});
    EXPECT_EQ(calls, 1);
}

TEST(ControlLoop, StopWakesWhoeverWaits) {
    ControlLoop loop;
    std::thread waiter([&] {
        try {
            for (;;) {
                loop.run_and_wait([] {});
            }
        } catch (const StateError&) {
        }
    });
    loop.stop();
    waiter.join();
    EXPECT_THROW(loop.run_and_wait([] {}), StateError);
}

class FdClient final : public WorkerClient {
public:
    [[nodiscard]] int descriptor() const noexcept override { return fd_.fd(); }
    void serve(std::uint16_t worker) noexcept override {
        served += fd_.drain();
        EXPECT_FALSE(gone) << "served after detach";
        const std::lock_guard lock(mutex_);
        workers_.insert(worker);
    }
    void check() noexcept override { ++checks; }
    void signal() const { fd_.signal(); }
    [[nodiscard]] std::size_t workers() const {
        const std::lock_guard lock(mutex_);
        return workers_.size();
    }
    std::atomic<std::uint64_t> served{0};
    std::atomic<int> checks{0};
    std::atomic<bool> gone{false};

private:
    EventFd fd_;
    mutable std::mutex mutex_;
    std::set<std::uint16_t> workers_;
};

void detach_and_wait(Runtime& runtime, const std::shared_ptr<FdClient>& client) {
    Latch detached;
    runtime.detach(client.get(), [&] {
        client->gone = true;
        detached.open();
    });
    detached.wait();
    EXPECT_TRUE(client->gone);
}

TEST(Runtime, ServesAllClientsWhileOthersComeAndGo) {
    Runtime& runtime = Runtime::instance();
    std::vector<std::shared_ptr<FdClient>> steady;
    for (int i = 0; i < 2; ++i) {
        steady.push_back(std::make_shared<FdClient>());
        runtime.attach(steady.back(), Placement::automatic, -1, 0);
    }
    std::atomic<bool> stop{false};
    std::uint64_t signalled = 0;
    std::thread signaller([&] {
        while (!stop) {
            for (const auto& client : steady) {
                client->signal();
            }
            ++signalled;
        }
    });
    // From local to sharded and back, over and over.
    for (int round = 0; round < 30; ++round) {
        std::vector<std::shared_ptr<FdClient>> guests;
        for (int i = 0; i < 8; ++i) {
            guests.push_back(std::make_shared<FdClient>());
            guests.back()->signal();
            runtime.attach(guests.back(), i % 2 == 0 ? Placement::automatic : Placement::sharded, -1, 0);
        }
        for (const auto& guest : guests) {
            EXPECT_TRUE(eventually([&] { return guest->served == 1; }));
            detach_and_wait(runtime, guest);
            guest->signal();
        }
    }
    stop = true;
    signaller.join();
    for (const auto& client : steady) {
        EXPECT_TRUE(eventually([&] { return client->served == signalled; }));
        detach_and_wait(runtime, client);
    }
}

TEST(Runtime, LetsGoOfClientsForGood) {
    Runtime& runtime = Runtime::instance();
    std::weak_ptr<FdClient> weak;
    {
        const auto client = std::make_shared<FdClient>();
        weak = client;
        runtime.attach(client, Placement::local, -1, 0);
        detach_and_wait(runtime, client);
    }
    EXPECT_TRUE(eventually([&] { return weak.expired(); }));
}

TEST(Runtime, ChecksItsClientsInTurn) {
    Runtime& runtime = Runtime::instance();
    const auto first = std::make_shared<FdClient>();
    const auto second = std::make_shared<FdClient>();
    runtime.attach(first, Placement::automatic, -1, 1'000'000);
    runtime.attach(second, Placement::automatic, -1, 1'000'000);
    EXPECT_TRUE(eventually([&] { return first->checks > 1 && second->checks > 1; }));
    detach_and_wait(runtime, first);
    detach_and_wait(runtime, second);
}

TEST(Runtime, DetachOfAStrangerStillReports) {
    Latch latch;
    const FdClient client;
    Runtime::instance().detach(&client, [&] { latch.open(); });
    latch.wait();
}

TEST(SessionGate, ReadersShareAndAWriterIsAlone) {
    SessionGate gate;
    std::uint64_t value = 0;
    std::uint64_t twin = 0;
    std::atomic<int> torn{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 3; ++i) {
        threads.emplace_back([&] {
            for (int n = 0; n < 3000; ++n) {
                gate.lock_shared();
                torn += value != twin ? 1 : 0;
                gate.unlock_shared();
            }
        });
    }
    for (int n = 0; n < 3000; ++n) {
        gate.lock();
        ++value;
        ++twin;
        gate.unlock();
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    EXPECT_EQ(torn, 0);
    gate.lock_shared();
    EXPECT_FALSE(gate.try_lock());
    gate.unlock_shared();
    EXPECT_TRUE(gate.try_lock());
    gate.unlock();
}

}  // namespace
}  // namespace vmthaw
