#include <gtest/gtest.h>

#include "base/clock.hpp"
#include "pager_support.hpp"

namespace vmthaw {
namespace {

using namespace pager_tests;

class Client final : public LaneClient {
public:
    explicit Client(std::function<void(const LaneTask&)> body = {}) : body_(std::move(body)) {}
    void run(LaneTask task, const FillContext& /*context*/) noexcept override {
        if (body_) {
            body_(task);
        }
        ++runs;
    }
    std::atomic<int> runs{0};

private:
    std::function<void(const LaneTask&)> body_;
};

LaneTask task_of(const std::shared_ptr<Client>& client, LaneWork work = LaneWork::fill, std::uint64_t number = 0) {
    LaneTask task{client, work, {}};
    task.fill.host_address = number;
    return task;
}

struct Order {
    std::mutex mutex;
    std::vector<std::uint64_t> seen;
    void add(const LaneTask& task) {
        const std::lock_guard lock(mutex);
        seen.push_back(task.fill.host_address);
    }
};

TEST(TaskLane, RunsInOrderDemandBeforeBackground) {
    Latch latch;
    Order order;
    const auto blocker = std::make_shared<Client>([&](const LaneTask&) { latch.wait(); });
    const auto client = std::make_shared<Client>([&](const LaneTask& task) { order.add(task); });
    TaskLane lane({"test", 1, 1, 1, false});
    lane.submit(task_of(blocker));
    ASSERT_TRUE(eventually([&] { return latch.waiting() == 1; }));
    lane.submit(task_of(client, LaneWork::populate, 3));
    lane.submit(task_of(client, LaneWork::check, 4));
    lane.submit(task_of(client, LaneWork::fill, 1));
    lane.submit(task_of(client, LaneWork::prewarm, 2));
    latch.open();
    ASSERT_TRUE(eventually([&] { return client->runs == 4; }));
    EXPECT_EQ(order.seen, (std::vector<std::uint64_t>{1, 2, 3, 4}));
}

TEST(TaskLane, DelayedTasksComeWhenDueAndByDueTime) {
    Order order;
    const auto client = std::make_shared<Client>([&](const LaneTask& task) { order.add(task); });
    TaskLane lane({"test", 1, 1, 1, false});
    const std::uint64_t start_ns = monotonic_ns();
    lane.submit(task_of(client, LaneWork::fill, 3), 30'000'000);
    lane.submit(task_of(client, LaneWork::fill, 2), 10'000'000);
    lane.submit(task_of(client, LaneWork::fill, 1));
    ASSERT_TRUE(eventually([&] { return client->runs == 3; }));
    EXPECT_GE(monotonic_ns() - start_ns, 30'000'000U);
    EXPECT_EQ(order.seen, (std::vector<std::uint64_t>{1, 2, 3}));
}

TEST(TaskLane, ADelayForEverDoesNotWrapAround) {
    const auto client = std::make_shared<Client>();
    const auto marker = std::make_shared<Client>();
    TaskLane lane({"test", 1, 1, 1, false});
    lane.submit(task_of(client), ~std::uint64_t{0});
    lane.submit(task_of(marker), 1'000'000);
    ASSERT_TRUE(eventually([&] { return marker->runs == 1; }));
    EXPECT_EQ(client->runs, 0);
}

TEST(TaskLane, OneClientTakesNoMoreThanItsShare) {
    Latch latch;
    std::atomic<int> at_once{0};
    std::atomic<int> most{0};
    const auto greedy = std::make_shared<Client>([&](const LaneTask&) {
        const int now = ++at_once;
        int before = most;
        while (before < now && !most.compare_exchange_weak(before, now)) {
        }
        latch.wait();
        --at_once;
    });
    const auto modest = std::make_shared<Client>();
    TaskLane lane({"test", 4, 4, 2, true});
    for (int i = 0; i < 10; ++i) {
        lane.submit(task_of(greedy));
    }
    lane.submit(task_of(modest));
    EXPECT_TRUE(eventually([&] { return modest->runs == 1; }));
    EXPECT_TRUE(eventually([&] { return latch.waiting() == 2; }));
    latch.open();
    ASSERT_TRUE(eventually([&] { return greedy->runs == 10; }));
    EXPECT_EQ(most, 2);
}

TEST(TaskLane, GrowsWhileAllThreadsAreBusyAndNotFurtherThanAllowed) {
    Latch latch;
    TaskLane lane({"test", 1, 3, 8, true});
    const auto client = std::make_shared<Client>([&](const LaneTask&) { latch.wait(); });
    for (int i = 0; i < 6; ++i) {
        lane.submit(task_of(client));
    }
    EXPECT_TRUE(eventually([&] { return latch.waiting() == 3; }));
    EXPECT_EQ(lane.threads(), 3U);
    latch.open();
    EXPECT_TRUE(eventually([&] { return client->runs == 6; }));
}

// One VM's hanging source holds every thread there is: another VM's parked retry still has to come due.
TEST(TaskLane, ABlockedClientDelaysNobodyElsesRetry) {
    Latch latch;
    const auto blocked = std::make_shared<Client>([&](const LaneTask&) { latch.wait(); });
    const auto other = std::make_shared<Client>();
    TaskLane lane({"test", 2, 8, 2, true});
    std::this_thread::sleep_for(5ms);  // both threads are idle by now, mostly: then nothing grows at submit()
    lane.submit(task_of(blocked));
    lane.submit(task_of(blocked));
    ASSERT_TRUE(eventually([&] { return latch.waiting() == 2; }));
    lane.submit(task_of(other), 5'000'000);
    EXPECT_TRUE(eventually([&] { return other->runs == 1; }, 2s));
    latch.open();
}

// The same when the tasks came faster than a thread wakes.
TEST(TaskLane, TasksSubmittedAtOnceFindThreads) {
    for (int round = 0; round < 20; ++round) {
        Latch latch;
        const auto blocked = std::make_shared<Client>([&](const LaneTask&) { latch.wait(); });
        const auto other = std::make_shared<Client>();
        TaskLane lane({"test", 1, 8, 1, true});
        std::this_thread::sleep_for(1ms);  // its thread is idle by now, mostly
        lane.submit(task_of(blocked));
        lane.submit(task_of(other));
        EXPECT_TRUE(eventually([&] { return other->runs == 1; }, 2s)) << round;
        latch.open();
    }
}

TEST(TaskLane, StopsWhileTasksWaitAndDropsThem) {
    const auto client = std::make_shared<Client>();
    {
        TaskLane lane({"test", 2, 4, 2, true});
        for (int i = 0; i < 100; ++i) {
            lane.submit(task_of(client), 3'600'000'000'000);
        }
        lane.stop();
        lane.stop();
        lane.submit(task_of(client));
    }
    EXPECT_EQ(client->runs, 0);
    EXPECT_EQ(client.use_count(), 1);
}

TEST(TaskLane, ManyThreadsSubmitAndNothingIsLost) {
    const auto client = std::make_shared<Client>();
    TaskLane lane({"test", 2, 4, 4, true});
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
        threads.emplace_back([&] {
            for (int n = 0; n < 500; ++n) {
                lane.submit(task_of(client), n % 3 == 0 ? 1000U : 0U);
            }
        });
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    EXPECT_TRUE(eventually([&] { return client->runs == 2000; }));
}

}  // namespace
}  // namespace vmthaw
