#include <gtest/gtest.h>

#include <poll.h>

#include "base/thread.hpp"
#include "pager/guest_run.hpp"
#include "pager/runtime.hpp"
#include "pager_support.hpp"

// Who waits for a client's messages, and who reads them while nobody waits.
namespace vmthaw {
namespace {

using namespace pager_tests;

// A client without a VM: its descriptor is an eventfd.
class Beeper final : public WorkerClient {
public:
    [[nodiscard]] int descriptor() const noexcept override { return event_.fd(); }
    void serve(std::uint16_t worker) noexcept override {
        event_.drain();
        served_by = worker;
    }
    void beep() { event_.signal(); }

    std::atomic<int> served_by{-1};

private:
    EventFd event_;
};

// Returns once every worker has obeyed what it was told before.
void let_workers_obey(Runtime& runtime) {
    const auto last = std::make_shared<Beeper>();
    std::atomic<bool> gone{false};
    runtime.attach(last, Placement::local, -1, 0);
    runtime.detach(last.get(), [&gone] { gone = true; });
    ASSERT_TRUE(eventually([&] { return gone.load(); }));
}

class WatchTest : public ::testing::Test {
protected:
    void SetUp() override {
        if (usable_cpus().size() < 2) {
            GTEST_SKIP() << "needs two processors";
        }
        // Another test's child may be found dead only now: with it there would be more clients than processors.
        ASSERT_TRUE(eventually([&] { return runtime_.clients() == 0; }));
    }
    void TearDown() override {
        std::atomic<std::size_t> left{clients_.size()};
        for (const std::shared_ptr<Beeper>& client : clients_) {
            runtime_.detach(client.get(), [&left] { --left; });
        }
        EXPECT_TRUE(eventually([&] { return left == 0; }));
    }
    Beeper& attach(Watch watch) {
        clients_.push_back(std::make_shared<Beeper>());
        runtime_.attach(clients_.back(), Placement::automatic, -1, 0, watch);
        return *clients_.back();
    }

    Runtime& runtime_ = Runtime::instance();
    std::vector<std::shared_ptr<Beeper>> clients_;
};

TEST_F(WatchTest, WhatCameWhileNobodyWatchedIsToldToWhoeverWatchesNext) {
    Beeper& client = attach(Watch::nobody);
    client.beep();
    let_workers_obey(runtime_);
    EXPECT_EQ(client.served_by, -1);
    for (const Watch watch : {Watch::one, Watch::usual}) {
        runtime_.watch(&client, watch);
        EXPECT_TRUE(eventually([&] { return client.served_by != -1; }));
        runtime_.watch(&client, Watch::nobody);
        let_workers_obey(runtime_);
        client.served_by = -1;
        client.beep();
        let_workers_obey(runtime_);
        EXPECT_EQ(client.served_by, -1);
    }
}

TEST_F(WatchTest, SomebodyWatchesAllTheSameWhileThereAreMoreClientsThanProcessors) {
    Beeper& client = attach(Watch::nobody);
    client.beep();
    let_workers_obey(runtime_);
    EXPECT_EQ(client.served_by, -1);
    for (std::size_t i = 0; i < usable_cpus().size(); ++i) {
        static_cast<void>(attach(Watch::usual));
    }
    EXPECT_TRUE(eventually([&] { return client.served_by != -1; }));
}

TEST_F(WatchTest, NobodyIsToldOfAClientThatIsNotAttached) {
    const Beeper stranger;
    EXPECT_NO_THROW(runtime_.watch(&stranger, Watch::one));
}

// Somebody looks on as its bytes are read.
class LookedAtSource final : public PageSource {
public:
    LookedAtSource(std::uint64_t pages, std::function<void(std::uint64_t)> on_read)
        : size_(pages * kPage), on_read_(std::move(on_read)) {}

    [[nodiscard]] std::uint64_t size() const noexcept override { return size_; }
    [[nodiscard]] bool covers(std::uint64_t, std::uint64_t) const noexcept override { return true; }
    [[nodiscard]] Extent extent_at(std::uint64_t offset, std::uint64_t limit) const noexcept override {
        return {offset, limit, ExtentKind::data};
    }
    [[nodiscard]] ReadResult read(std::uint64_t offset, std::span<std::byte> out) noexcept override {
        on_read_(offset);
        for (std::uint64_t i = 0; i < out.size() / 8; ++i) {
            reinterpret_cast<std::uint64_t*>(out.data())[i] = word_at(offset + i * 8);
        }
        return {};
    }
    [[nodiscard]] bool read_now(std::uint64_t offset, std::span<std::byte> out) noexcept override {
        return at_hand && read(offset, out).ok();
    }
    [[nodiscard]] std::vector<Extent> extents() const override { return {}; }
    [[nodiscard]] std::string description() const override { return "looked at"; }

    std::atomic<bool> at_hand{true};

private:
    std::uint64_t size_;
    std::function<void(std::uint64_t)> on_read_;
};

constexpr std::uint64_t kPages = 64;

// Every other page is of the working set, from the first on; the last one is not.
std::shared_ptr<PagerSession> replay(const Guest& guest, std::shared_ptr<PageSource> source) {
    std::vector<GuestRun> runs;
    for (std::uint64_t page = 0; page < kPages; page += 2) {
        runs.push_back({guest.regions().front().guest_address + page * kPage, kPage});
    }
    PagerConfig config = quick_config();
    config.trace_records = 1024;
    config.fill_mode = FillMode::page;
    auto session = PagerSession::create({.userfaultfd = guest.clone(),
                                         .regions = guest.regions(),
                                         .source = std::move(source),
                                         .config = config,
                                         .pid_fd = {},
                                         .socket = {},
                                         .label = "test",
                                         .prewarm = {},
                                         .page_states = {},
                                         .working_set = make_guest_runs(std::move(runs))},
                                        nullptr);
    session->start();
    return session;
}

bool is_replayed(const PagerSession& session, std::uint64_t pages = kPages / 2) {
    return eventually([&] { return session.counters().prefetched == pages; });
}

// A thread of the guest that does something in the middle of a replay: while the first page is being read, and no
// sooner than the workers have let go. The message of it is there before the replay goes on.
class Interruption {
public:
    Interruption(const Guest& guest, std::function<void()> what) : descriptor_(guest.clone()) {
        crew_.start([this, what = std::move(what)] {
            while (!wanted_) {
                std::this_thread::yield();
            }
            what();
        });
    }
    [[nodiscard]] std::shared_ptr<PageSource> source() {
        return std::make_shared<LookedAtSource>(kPages, [this](std::uint64_t offset) {
            if (offset == 0 && !wanted_) {
                let_workers_obey(Runtime::instance());
                wanted_ = true;
                pollfd waiting{descriptor_.fd(), POLLIN, 0};
                EXPECT_EQ(::poll(&waiting, 1, 20'000), 1);
            }
        });
    }
    void finish_or_die(const std::string& what) { crew_.finish_or_die(what); }

private:
    Userfaultfd descriptor_;
    std::atomic<bool> wanted_{false};
    Crew crew_;
};

TEST_F(WatchTest, AReplayWhoseBytesAreAtHandAnswersTheFaultsItself) {
    VMTHAW_NEEDS_USERFAULTFD();
    constexpr std::uint16_t kLaneThread = 0xFFFF;
    Guest guest(kPages);
    Interruption fault(guest, [&guest] { EXPECT_TRUE(guest.holds_source(kPages - 1)); });
    const auto session = replay(guest, fault.source());
    EXPECT_TRUE(is_replayed(*session));
    fault.finish_or_die("nobody read the fault's message");
    std::vector<FaultRecord> records;
    session->trace().ring()->drain(records, 1024);
    const auto demand = std::ranges::find(records, FaultKind::demand, &FaultRecord::kind);
    ASSERT_NE(demand, records.end());
    EXPECT_EQ(demand->handler, kLaneThread);
    EXPECT_LT(demand - records.begin(), static_cast<std::ptrdiff_t>(kPages / 2)) << "in the middle of the replay";
    EXPECT_TRUE(guest.holds_source(3)) << "and the workers answer when it is over";
    drain(session);
}

TEST_F(WatchTest, FaultsAreAnsweredWhileAReplayWaitsForItsSource) {
    VMTHAW_NEEDS_USERFAULTFD();
    Guest guest(kPages);
    Latch latch;
    const auto source = std::make_shared<LookedAtSource>(kPages, [&](std::uint64_t offset) {
        if (offset == 0) {
            latch.wait();
        }
    });
    source->at_hand = false;
    const auto session = replay(guest, source);
    ASSERT_TRUE(eventually([&] { return latch.waiting() == 1; }));
    Crew crew;
    crew.start([&guest] { EXPECT_TRUE(guest.holds_source(kPages - 1)); });
    EXPECT_TRUE(crew.finish()) << "nobody watches";
    latch.open();
    crew.finish_or_die("a fault beside a replay that waits");
    EXPECT_TRUE(is_replayed(*session));
    drain(session);
}

// Nothing can be filled before the event is read, so the replay has to wait for who reads it.
TEST_F(WatchTest, AnEventInTheMiddleOfAReplayIsReadByAWorker) {
    VMTHAW_NEEDS_USERFAULTFD();
    Guest guest(kPages);
    Interruption removal(guest, [&guest] { guest.remove(kPages - 2, 2); });
    const auto session = replay(guest, removal.source());
    removal.finish_or_die("nobody read the event");
    EXPECT_TRUE(is_replayed(*session, kPages / 2 - 1));
    EXPECT_TRUE(guest.holds_zeros(kPages - 2));
    EXPECT_TRUE(guest.holds_source(kPages - 3));
    drain(session);
}

}  // namespace
}  // namespace vmthaw
