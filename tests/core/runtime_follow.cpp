#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "base/mapping.hpp"
#include "base/thread.hpp"
#include "pager/runtime.hpp"
#include "pager/toucher_finder.hpp"
#include "pager_support.hpp"

// Where a VM touches its memory, and that its descriptor follows it there.
namespace vmthaw {
namespace {

using namespace pager_tests;

void pin_to(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(static_cast<std::size_t>(cpu), &set);
    check_errno(::sched_setaffinity(0, sizeof set, &set), "sched_setaffinity");
}

// Runs `step` over and over on one processor until it goes out of scope.
class BusyThread {
public:
    template <typename Step>
    BusyThread(int cpu, Step step)
        : thread_([this, cpu, step] {
              pin_to(cpu);
              tid_ = ::gettid();
              while (!stopping_) {
                  step();
              }
          }) {
        while (tid_ == 0) {
            std::this_thread::yield();
        }
    }
    BusyThread(const BusyThread&) = delete;
    BusyThread& operator=(const BusyThread&) = delete;
    BusyThread(BusyThread&&) = delete;
    BusyThread& operator=(BusyThread&&) = delete;
    ~BusyThread() {
        stopping_ = true;
        thread_.join();
    }
    [[nodiscard]] pid_t tid() const { return tid_; }

private:
    std::atomic<bool> stopping_{false};
    std::atomic<pid_t> tid_{0};
    std::thread thread_;
};

TEST(ToucherFinder, FindsAThreadByItsIdAndNoneOfAnotherProcess) {
    for (const int cpu : usable_cpus()) {
        const BusyThread busy(cpu, [] { std::this_thread::yield(); });
        EXPECT_EQ(ToucherFinder::find(::getpid(), busy.tid()), cpu);
        EXPECT_EQ(ToucherFinder::find(1, busy.tid()), -1);
    }
    EXPECT_EQ(ToucherFinder::find(::getpid(), 0x7FFF'FFFF), -1);
}

TEST(ToucherFinder, FindsTheThreadThatFaultsMostWithoutBeingToldItsId) {
    for (const int cpu : usable_cpus()) {
        const Mapping memory = Mapping::anonymous(64 * kPage);
        const BusyThread quiet(usable_cpus().front(), [] { std::this_thread::yield(); });
        const BusyThread faulting(cpu, [&memory] {
            for (std::uint64_t page = 0; page < 64; ++page) {
                *static_cast<volatile std::byte*>(memory.data() + page * kPage) = std::byte{1};
            }
            ::madvise(memory.data(), memory.size(), MADV_DONTNEED);
        });
        ToucherFinder finder;
        EXPECT_EQ(finder.search(::getpid()), -1) << "the first look only remembers";
        EXPECT_TRUE(eventually([&] { return finder.search(::getpid()) == cpu; }));
    }
    ToucherFinder finder;
    EXPECT_EQ(finder.search(0x7FFF'FFFF), -1);
}

// Like a vCPU, whose faults nobody counts as its thread's.
TEST(ToucherFinder, FindsTheThreadThatSleepsMostWhereFaultsAreNotCounted) {
    for (const int cpu : usable_cpus()) {
        const BusyThread busy(usable_cpus().front(), [] {});
        const BusyThread sleeping(cpu, [] { std::this_thread::sleep_for(std::chrono::microseconds(50)); });
        ToucherFinder finder;
        static_cast<void>(finder.search(::getpid()));
        EXPECT_TRUE(eventually([&] {
            std::this_thread::sleep_for(std::chrono::milliseconds(20));
            return finder.search(::getpid()) == cpu;
        }));
    }
}

// A client without a VM: its descriptor is an eventfd, and it says where it faults.
class Wanderer final : public WorkerClient {
public:
    [[nodiscard]] int descriptor() const noexcept override { return event_.fd(); }
    void serve(std::uint16_t worker) noexcept override {
        event_.drain();
        served_by = worker;
    }
    [[nodiscard]] pid_t process() const noexcept override { return ::getpid(); }
    int faulting_cpu(bool alone) noexcept override {
        told_alone = told_alone || alone;
        return cpu;
    }
    void fault() { event_.signal(); }

    std::atomic<int> cpu{-1};
    std::atomic<int> served_by{-1};
    std::atomic<bool> told_alone{false};

private:
    EventFd event_;
};

TEST(RuntimeFollow, ADescriptorMovesToTheWorkerOnWhoseProcessorItsVmFaults) {
    const std::vector<int> cpus = usable_cpus();
    if (cpus.size() < 2) {
        GTEST_SKIP() << "needs two processors";
    }
    Runtime& runtime = Runtime::instance();
    std::vector<std::shared_ptr<Wanderer>> crowd;  // more than there are workers: one worker each
    for (std::size_t i = 0; i < cpus.size() + 3; ++i) {
        crowd.push_back(std::make_shared<Wanderer>());
        runtime.attach(crowd.back(), Placement::automatic, -1, 0);
    }
    Wanderer& one = *crowd.front();
    for (int round = 0; round < 3; ++round) {
        for (std::size_t worker = 0; worker < 2; ++worker) {
            one.cpu = cpus[worker];
            EXPECT_TRUE(eventually([&] {
                one.fault();
                return one.served_by == static_cast<int>(worker);
            })) << worker;
        }
    }
    EXPECT_FALSE(one.told_alone) << "all of these are one process";
    std::atomic<std::size_t> left{crowd.size()};
    for (const std::shared_ptr<Wanderer>& client : crowd) {
        runtime.detach(client.get(), [&left] { --left; });
    }
    EXPECT_TRUE(eventually([&] { return left == 0; }));
}

}  // namespace
}  // namespace vmthaw
