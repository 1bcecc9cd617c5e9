// FreezeCoordinator's protocol with real threads, signals and eventfds; the vCPUs are stand-ins, so it needs no KVM.
#include <gtest/gtest.h>
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "base/clock.hpp"
#include "machine/freeze/basic_freeze_coordinator.hpp"
#include "machine/freeze/freeze_coordinator.hpp"

namespace vmthaw {
namespace {

constexpr std::uint64_t kStressPatience_ns = 60'000'000'000;
thread_local std::atomic<std::uint8_t>* t_immediate_exit = nullptr;
thread_local std::atomic<bool> t_kicked{false};

int stress_signal() { return SIGRTMIN + 11; }

void on_stress_signal(int /*signal*/) {
    t_kicked.store(true);
    if (t_immediate_exit != nullptr) {
        t_immediate_exit->store(1);
    }
}

// Its registers are plain words: a freeze that did not really stop its thread is a data race, which the thread
// sanitizer sees, and a difference, which the test sees.
class StressVcpu {
public:
    [[nodiscard]] bool immediate_exit() const noexcept { return immediate_exit_.load(std::memory_order_acquire) != 0; }
    void set_immediate_exit(bool value) noexcept { immediate_exit_.store(value ? 1 : 0, std::memory_order_release); }
    [[nodiscard]] int drain() noexcept {
        registers_ += unfinished_ ? 1 : 0;
        unfinished_ = false;
        set_immediate_exit(false);
        return 0;
    }
    [[nodiscard]] std::optional<std::uint64_t> capture() noexcept {
        ++parks_;
        return registers_;
    }
    // As KVM_RUN: not at all with immediate_exit, else until the kick or an exit.
    int run(std::uint64_t until_exit) {
        t_kicked.store(false);
        if (immediate_exit()) {
            return EINTR;
        }
        for (std::uint64_t i = 0; i < until_exit; ++i) {
            ++registers_;
            if (i % 64 == 0) {
                ::usleep(0);  // the thread sanitizer delivers signals in calls alone
            }
            if (t_kicked.load()) {
                return EINTR;
            }
        }
        unfinished_ = true;
        exits_.fetch_add(1, std::memory_order_relaxed);
        return 0;
    }
    void bind() {
        const std::lock_guard lock(mutex_);
        t_immediate_exit = &immediate_exit_;
        thread_ = ::pthread_self();
        has_thread_ = true;
    }
    void unbind() noexcept {
        const std::lock_guard lock(mutex_);
        t_immediate_exit = nullptr;
        has_thread_ = false;
    }
    void kick() noexcept {
        const std::lock_guard lock(mutex_);
        if (has_thread_) {
            ::pthread_kill(thread_, stress_signal());
        }
    }
    [[nodiscard]] std::uint64_t registers() const noexcept { return registers_; }
    [[nodiscard]] std::uint64_t parks() const noexcept { return parks_; }
    [[nodiscard]] std::uint64_t exits() const noexcept { return exits_.load(std::memory_order_relaxed); }

private:
    std::atomic<std::uint8_t> immediate_exit_{0};
    std::uint64_t registers_ = 0, parks_ = 0;
    std::atomic<std::uint64_t> exits_{0};
    bool unfinished_ = false;
    std::mutex mutex_;
    pthread_t thread_{};
    bool has_thread_ = false;
};

class CountedEvent {
public:
    void signal() const noexcept {
        edges_.fetch_add(1);
        event_.signal();
    }
    std::uint64_t drain() const noexcept { return event_.drain(); }
    [[nodiscard]] const EventFd* get() const noexcept { return &event_; }
    [[nodiscard]] std::uint64_t edges() const noexcept { return edges_.load(); }

private:
    EventFd event_;
    mutable std::atomic<std::uint64_t> edges_{0};
};

struct StressPlatform : FreezePlatformBase {
    using Vcpu = StressVcpu;
    using Snapshot = std::uint64_t;
    using Event = CountedEvent;
    static void bind(Vcpu& vcpu) { vcpu.bind(); }
    static void unbind(Vcpu& vcpu) noexcept { vcpu.unbind(); }
    static void kick(Vcpu& vcpu) noexcept { vcpu.kick(); }
    static void wait(const std::array<CountedEvent*, 3>& events, std::uint64_t timeout_ns) noexcept {
        const auto get = [](const CountedEvent* event) { return event != nullptr ? event->get() : nullptr; };
        wait_for_events({get(events[0]), get(events[1]), get(events[2])}, timeout_ns);
    }
};
using StressCoordinator = BasicFreezeCoordinator<StressPlatform>;

// vCPUs with their threads, which run until the kill.
class Guests {
public:
    explicit Guests(std::size_t count, FreezeEvents events = {}) : vcpus_(count) {
        struct sigaction action{};
        action.sa_handler = &on_stress_signal;
        ::sigaction(stress_signal(), &action, nullptr);
        std::vector<StressVcpu*> pointers;
        for (StressVcpu& vcpu : vcpus_) {
            pointers.push_back(&vcpu);
        }
        coordinator_ = std::make_unique<StressCoordinator>(pointers, events);
        for (std::size_t i = 0; i < count; ++i) {
            threads_.emplace_back([this, i] { run(i); });
        }
        while (attached_.load() < count) {
            std::this_thread::yield();
        }
    }
    ~Guests() { end(); }
    Guests(const Guests&) = delete;
    Guests& operator=(const Guests&) = delete;

    void end() {
        coordinator_->kill();
        for (std::thread& thread : threads_) {
            if (thread.joinable()) {
                thread.join();
            }
        }
    }
    StressCoordinator& coordinator() { return *coordinator_; }
    StressVcpu& vcpu(std::size_t index) { return vcpus_[index]; }
    // Held back, a vCPU does not come to its next head.
    std::atomic<bool> hold_first{false};
    std::atomic<bool> is_held{false};

private:
    void run(std::size_t index) {
        coordinator_->attach(index);
        attached_.fetch_add(1);
        std::uint64_t length = 1;
        while (coordinator_->head(index) == LoopHead::run) {
            length = length * 6364136223846793005U + 1442695040888963407U;
            (void)vcpus_[index].run(100 + (length >> 54U));
            while (index == 0 && hold_first.load() && !coordinator_->is_killed()) {
                is_held.store(true);
                std::this_thread::yield();
            }
        }
        coordinator_->detach(index);
    }

    std::vector<StressVcpu> vcpus_;
    std::unique_ptr<StressCoordinator> coordinator_;
    std::atomic<std::size_t> attached_{0};
    std::vector<std::thread> threads_;
};

void freeze_and_check(Guests& guests, std::size_t count) {
    const StressCoordinator::Outcome outcome = guests.coordinator().freeze(kStressPatience_ns);
    ASSERT_EQ(outcome.status, FreezeStatus::frozen);
    ASSERT_EQ(outcome.snapshots.size(), count);
    for (std::size_t i = 0; i < count; ++i) {
        ASSERT_EQ(outcome.snapshots[i], std::optional(guests.vcpu(i).registers()));
    }
    guests.coordinator().thaw();
}

// One freeze after the other may stop every run before its exit, on a busy machine all ten thousand times.
void let_one_exit(Guests& guests, std::size_t count) {
    const auto exits = [&] {
        std::uint64_t sum = 0;
        for (std::size_t i = 0; i < count; ++i) {
            sum += guests.vcpu(i).exits();
        }
        return sum;
    };
    const std::uint64_t before = exits();
    const std::uint64_t deadline_ns = monotonic_ns() + kStressPatience_ns;
    while (exits() == before) {
        ASSERT_LT(monotonic_ns(), deadline_ns) << "no vCPU exits";
        std::this_thread::yield();
    }
}

TEST(FreezeStress, FourVcpusTenThousandTimesLoseNoEdge) {
    constexpr std::size_t kVcpus = 4;
    Guests guests(kVcpus);
    for (int cycle = 0; cycle < 10'000; ++cycle) {
        if (cycle % 500 == 0) {
            ASSERT_NO_FATAL_FAILURE(let_one_exit(guests, kVcpus)) << "cycle " << cycle;
        }
        ASSERT_NO_FATAL_FAILURE(freeze_and_check(guests, kVcpus)) << "cycle " << cycle;
    }
    guests.end();
    std::uint64_t parks = 0;
    for (std::size_t i = 0; i < kVcpus; ++i) {
        parks += guests.vcpu(i).parks();
        EXPECT_EQ(guests.vcpu(i).parks(), 10'000U);
    }
    EXPECT_EQ(guests.coordinator().parked_event()->edges(), parks);
}

TEST(FreezeStress, WorksWithoutAnyEvent) {
    Guests guests(2, {false, false, false});
    for (int cycle = 0; cycle < 20; ++cycle) {
        ASSERT_NO_FATAL_FAILURE(freeze_and_check(guests, 2));
    }
    EXPECT_EQ(guests.coordinator().parked_event(), nullptr);
}

TEST(FreezeStress, ATimeOutNamesWhoDidNotParkAndTheGuestRunsOn) {
    Guests guests(3);
    guests.hold_first.store(true);
    while (!guests.is_held.load()) {
        std::this_thread::yield();
    }
    const StressCoordinator::Outcome outcome = guests.coordinator().freeze(50'000'000);
    EXPECT_EQ(outcome.status, FreezeStatus::timed_out);
    EXPECT_NE(std::find(outcome.not_parked.begin(), outcome.not_parked.end(), 0U), outcome.not_parked.end());
    EXPECT_TRUE(outcome.snapshots.empty());
    EXPECT_THROW(guests.coordinator().thaw(), StateError);
    guests.hold_first.store(false);
    for (int cycle = 0; cycle < 100; ++cycle) {
        ASSERT_NO_FATAL_FAILURE(freeze_and_check(guests, 3));
    }
}

TEST(FreezeStress, FreezesThatGiveUpAtOnceLeaveNothingBehind) {
    Guests guests(2);
    int timed_out = 0;
    for (int cycle = 0; cycle < 2'000; ++cycle) {
        const StressCoordinator::Outcome outcome = guests.coordinator().freeze(cycle % 3 == 0 ? 0 : 20'000);
        if (outcome.status == FreezeStatus::frozen) {
            EXPECT_EQ(outcome.snapshots[1], std::optional(guests.vcpu(1).registers()));
            guests.coordinator().thaw();
        } else {
            ++timed_out;
            EXPECT_FALSE(outcome.not_parked.empty());
        }
    }
    EXPECT_GT(timed_out, 0);
    ASSERT_NO_FATAL_FAILURE(freeze_and_check(guests, 2));
}

TEST(FreezeStress, AKillWakesAFreezeAndTheParked) {
    for (int round = 0; round < 50; ++round) {
        Guests guests(2);
        std::thread killer([&] { guests.coordinator().kill(); });
        const StressCoordinator::Outcome outcome = guests.coordinator().freeze(kStressPatience_ns);
        EXPECT_NE(outcome.status, FreezeStatus::timed_out);
        killer.join();
        guests.end();  // hangs when a parked vCPU slept on
        if (outcome.status == FreezeStatus::killed) {
            EXPECT_TRUE(outcome.snapshots.empty());
            EXPECT_EQ(guests.coordinator().freeze(kStressPatience_ns).status, FreezeStatus::killed);
        }
    }
}

TEST(FreezeStress, OneFreezeAtATime) {
    Guests guests(1);
    EXPECT_THROW(guests.coordinator().thaw(), StateError);
    ASSERT_EQ(guests.coordinator().freeze(kStressPatience_ns).status, FreezeStatus::frozen);
    EXPECT_TRUE(guests.coordinator().is_parked(0));
    EXPECT_THROW((void)guests.coordinator().freeze(0), StateError);
    EXPECT_THROW(guests.coordinator().attach(0), StateError);
    guests.coordinator().thaw();
    ASSERT_NO_FATAL_FAILURE(freeze_and_check(guests, 1));
}

}  // namespace
}  // namespace vmthaw
