#include <gtest/gtest.h>

#include "pager/guest_run.hpp"
#include "pager_support.hpp"

// A recorded working set, replayed into a session.
namespace vmthaw {
namespace {

using namespace pager_tests;

constexpr std::uint64_t kSetPages = 64;
constexpr std::uint64_t kGuestStart = 0x4000'0000;  // of Guest::regions()

GuestRuns pages_of(std::initializer_list<std::pair<std::uint64_t, std::uint64_t>> runs) {
    std::vector<GuestRun> list;
    for (const auto& [first, count] : runs) {
        list.push_back({kGuestStart + first * kPage, count * kPage});
    }
    return make_guest_runs(std::move(list));
}

class WorkingSetReplayTest : public ::testing::Test {
protected:
    void SetUp() override { VMTHAW_NEEDS_USERFAULTFD(); }

    static std::shared_ptr<PagerSession> serve(Guest& guest, std::shared_ptr<PageSource> source, GuestRuns working_set,
                                               PagerConfig config = quick_config()) {
        config.trace_records = 1024;
        const auto session = PagerSession::create({.userfaultfd = guest.clone(),
                                                   .regions = guest.regions(),
                                                   .source = std::move(source),
                                                   .config = config,
                                                   .pid_fd = {},
                                                   .socket = {},
                                                   .label = "test",
                                                   .prewarm = {},
                                                   .page_states = {},
                                                   .working_set = std::move(working_set)},
                                                  nullptr);
        session->start();
        return session;
    }
    static PagerConfig before() {
        PagerConfig config = quick_config();
        config.working_set_mode = WorkingSetMode::before;
        return config;
    }
    static bool prefetched(const std::shared_ptr<PagerSession>& session, std::uint64_t pages) {
        return eventually([&] { return session->counters().prefetched == pages; });
    }
    static std::vector<FaultRecord> records_of(const std::shared_ptr<PagerSession>& session) {
        std::vector<FaultRecord> records;
        session->trace().ring()->drain(records, 1024);
        return records;
    }
};

TEST(GuestRunTest, RunsAreSortedAndJoinedWhereTheyTouchOrOverlap) {
    const GuestRuns runs = make_guest_runs({{0x9000, 0x1000}, {0x1000, 0x2000}, {0x3000, 0x1000}, {0x2000, 0x800}});
    const std::vector<GuestRun> expected{{0x1000, 0x3000}, {0x9000, 0x1000}};
    EXPECT_EQ(*runs, expected);
}

TEST(GuestRunTest, EmptyAndOverflowingRunsAreRefused) {
    EXPECT_THROW(static_cast<void>(make_guest_runs({{0x1000, 0}})), ArgumentError);
    EXPECT_THROW(static_cast<void>(make_guest_runs({{~std::uint64_t{0} - 4095, 4096}})), ArgumentError);
    EXPECT_NO_THROW(static_cast<void>(make_guest_runs({{~std::uint64_t{0} - 4096, 4096}})));
}

TEST_F(WorkingSetReplayTest, PagesComeByAddressAndJoinedAndAreTracedAsPrefetch) {
    Guest guest(kSetPages);
    const auto source = std::make_shared<ScriptedSource>(kSetPages);
    const auto session = serve(guest, source, pages_of({{40, 2}, {3, 4}, {7, 1}, {20, 1}}));
    ASSERT_TRUE(prefetched(session, 8));
    EXPECT_EQ(session->counters().faults, 0U);
    EXPECT_EQ(session->counters().source_bytes, 8 * kPage);
    const std::vector<FaultRecord> records = records_of(session);
    ASSERT_EQ(records.size(), 3U);
    const std::pair<std::uint64_t, std::uint32_t> expected[] = {{3, 5}, {20, 1}, {40, 2}};
    for (std::size_t i = 0; i < 3; ++i) {
        EXPECT_EQ(records[i].guest_address, kGuestStart + expected[i].first * kPage);
        EXPECT_EQ(records[i].offset, expected[i].first * kPage);
        EXPECT_EQ(records[i].pages, expected[i].second);
        EXPECT_EQ(records[i].kind, FaultKind::prefetch);
        EXPECT_EQ(records[i].outcome, FaultOutcome::installed);
    }
    for (const std::uint64_t page : {3, 4, 5, 6, 7, 20, 40, 41}) {
        EXPECT_TRUE(guest.holds_source(page)) << page;
    }
    EXPECT_EQ(session->counters().faults, 0U) << "the pages were there already";
    EXPECT_TRUE(guest.holds_source(8));
    EXPECT_EQ(session->counters().faults, 1U);
    drain(session);
}

TEST_F(WorkingSetReplayTest, BeforeMeansBeforeTheFirstFaultIsRead) {
    Guest guest(kSetPages);
    Latch latch;
    const auto source = std::make_shared<ScriptedSource>(kSetPages, [&](std::uint64_t, std::uint64_t) {
        latch.wait();
        return ReadResult{};
    });
    const auto session = serve(guest, source, pages_of({{0, 2}, {50, 3}}), before());
    Crew crew;
    crew.start([&] { EXPECT_TRUE(guest.holds_source(51)); });
    ASSERT_TRUE(eventually([&] { return latch.waiting() == 1; }));
    EXPECT_EQ(session->state(), SessionState::preparing);
    EXPECT_EQ(session->counters().faults, 0U);
    latch.open();
    crew.finish_or_die("a fault answered by the working set alone was not woken");
    EXPECT_EQ(session->counters().prefetched, 5U);
    EXPECT_EQ(records_of(session).front().kind, FaultKind::prewarm);
    drain(session);
}

// The copies do not wake: whoever sleeps there is woken by the worker that reads its message.
TEST_F(WorkingSetReplayTest, ThreadsThatSleepOnPagesOfItAreAllWoken) {
    for (int round = 0; round < 20; ++round) {
        Guest guest(kSetPages);
        Crew crew;
        for (std::uint64_t i = 0; i < 8; ++i) {
            crew.start([&, i] { EXPECT_TRUE(guest.holds_source(i * 8)); });
        }
        std::this_thread::sleep_for(200us);  // some sleep in the kernel already, some come beside
        const auto session = serve(guest, std::make_shared<ScriptedSource>(kSetPages), pages_of({{0, kSetPages}}),
                                   round % 2 == 0 ? before() : quick_config());
        crew.finish_or_die("a page was installed without waking who waits for it");
        drain(session);
    }
}

TEST_F(WorkingSetReplayTest, ZeroExtentsAreInstalledAsZerosWithoutReading) {
    class HalfZero final : public PageSource {
    public:
        [[nodiscard]] std::uint64_t size() const noexcept override { return kSetPages * kPage; }
        [[nodiscard]] bool covers(std::uint64_t, std::uint64_t) const noexcept override { return true; }
        [[nodiscard]] Extent extent_at(std::uint64_t offset, std::uint64_t limit) const noexcept override {
            constexpr std::uint64_t kHalf = kSetPages / 2 * kPage;
            if (offset >= kHalf) {
                return {offset, limit, ExtentKind::zero};
            }
            return {offset, std::min(limit, kHalf - offset), ExtentKind::data};
        }
        [[nodiscard]] ReadResult read(std::uint64_t offset, std::span<std::byte> out) noexcept override {
            EXPECT_LE(offset + out.size(), kSetPages / 2 * kPage);
            for (std::uint64_t i = 0; i < out.size() / 8; ++i) {
                reinterpret_cast<std::uint64_t*>(out.data())[i] = word_at(offset + i * 8);
            }
            return {};
        }
        [[nodiscard]] std::vector<Extent> extents() const override { return {}; }
        [[nodiscard]] std::string description() const override { return "half"; }
    };
    Guest guest(kSetPages);
    const auto session = serve(guest, std::make_shared<HalfZero>(), pages_of({{kSetPages / 2 - 4, 8}}));
    ASSERT_TRUE(prefetched(session, 8));
    EXPECT_EQ(session->counters().zero, 4U);
    for (std::uint64_t page = kSetPages / 2 - 4; page < kSetPages / 2; ++page) {
        EXPECT_TRUE(guest.holds_source(page)) << page;
        EXPECT_TRUE(guest.holds_zeros(page + 4)) << page;
    }
    EXPECT_EQ(session->counters().faults, 0U);
    drain(session);
}

TEST_F(WorkingSetReplayTest, PagesThatTheVmGaveBackStayZeros) {
    Guest guest(kSetPages);
    Latch latch;
    const auto source = std::make_shared<ScriptedSource>(kSetPages, [&](std::uint64_t offset, std::uint64_t) {
        if (offset == 0) {
            latch.wait();
        }
        return ReadResult{};
    });
    const auto session = serve(guest, source, pages_of({{0, 12}}));
    ASSERT_TRUE(eventually([&] { return latch.waiting() == 1; }));
    guest.remove(4, 4);  // while their bytes are being read
    latch.open();
    ASSERT_TRUE(prefetched(session, 8));
    for (std::uint64_t page = 0; page < 12; ++page) {
        EXPECT_TRUE(page >= 4 && page < 8 ? guest.holds_zeros(page) : guest.holds_source(page)) << page;
    }
    drain(session);
}

TEST_F(WorkingSetReplayTest, ASourceThatFailsIsLeftToTheFaultsAndTheRestGoesOn) {
    Guest guest(kSetPages);
    std::atomic<bool> broken{true};
    const auto source = std::make_shared<ScriptedSource>(kSetPages, [&](std::uint64_t offset, std::uint64_t size) {
        const bool hit = offset <= 10 * kPage && 10 * kPage < offset + size;
        return hit && broken ? ReadResult{ReadStatus::io_error, EIO, 0} : ReadResult{};
    });
    const auto session = serve(guest, source, pages_of({{2, 2}, {10, 1}, {30, 5}}));
    ASSERT_TRUE(prefetched(session, 7));
    EXPECT_TRUE(session->failures().empty());
    EXPECT_EQ(session->state(), SessionState::serving);
    broken = false;
    EXPECT_TRUE(guest.holds_source(10));
    EXPECT_EQ(session->counters().failed, 0U);
    drain(session);
}

TEST_F(WorkingSetReplayTest, ASourceThatIsDownEndsTheReplayEarly) {
    Guest guest(4096);
    const auto source = std::make_shared<ScriptedSource>(
        4096, [](std::uint64_t, std::uint64_t) { return ReadResult{ReadStatus::io_error, EIO, 0}; });
    const auto session = serve(guest, source, pages_of({{0, 4096}}), before());
    ASSERT_TRUE(eventually([&] { return session->state() == SessionState::serving; }));
    EXPECT_LE(source->reads, 64U);
    EXPECT_EQ(session->counters().prefetched, 0U);
    static_cast<void>(session->detach());
}

TEST_F(WorkingSetReplayTest, AddressesInNoRegionAndPartsOfPagesAreNoHarm) {
    Guest guest(kSetPages);
    const GuestRuns runs = make_guest_runs({{0x1000, 0x1000},
                                            {kGuestStart - 0x3000, 0x3000 + kPage + 8},  // into the second page
                                            {kGuestStart + (kSetPages - 1) * kPage + 100, 1ULL << 40U}});
    const auto session = serve(guest, std::make_shared<ScriptedSource>(kSetPages), runs);
    ASSERT_TRUE(prefetched(session, 3));
    EXPECT_TRUE(guest.holds_source(0));
    EXPECT_TRUE(guest.holds_source(1));
    EXPECT_TRUE(guest.holds_source(kSetPages - 1));
    EXPECT_EQ(session->counters().faults, 0U);
    drain(session);
}

TEST_F(WorkingSetReplayTest, PagesThatAreThereAlreadyAreSkipped) {
    Guest guest(kSetPages);
    const std::vector<std::byte> other(kPage, std::byte{7});
    ASSERT_EQ(guest.clone().copy(guest.address(5), other.data(), kPage).status, FillStatus::done);
    const auto session = serve(guest, std::make_shared<ScriptedSource>(kSetPages), pages_of({{0, 10}}));
    ASSERT_TRUE(prefetched(session, 9));
    EXPECT_EQ(session->counters().redundant, 1U);
    EXPECT_EQ(guest.word(5, 0), 0x0707070707070707U);
    EXPECT_TRUE(guest.holds_source(9));
    drain(session);
}

TEST_F(WorkingSetReplayTest, DetachInTheMiddleHandsOverWhatIsThereAndStopsInstalling) {
    Guest guest(4096);
    const auto latch = std::make_shared<Latch>();  // nobody waits for its last reader
    const auto source = std::make_shared<ScriptedSource>(4096, [latch](std::uint64_t offset, std::uint64_t) {
        if (offset >= 1024 * kPage) {
            latch->wait();
        }
        return ReadResult{};
    });
    const auto session = serve(guest, source, pages_of({{0, 4096}}));
    ASSERT_TRUE(eventually([&] { return latch->waiting() == 1; }));
    const DetachedSession detached = session->detach();
    latch->open();
    const std::vector<std::uint8_t>& states = detached.page_states.at(0);
    for (std::uint64_t page = 0; page < 4096; ++page) {
        ASSERT_EQ(states[page], static_cast<std::uint8_t>(page < 1024 ? PageState::present : PageState::absent))
            << page;
    }
    EXPECT_EQ(session->counters().prefetched, 1024U);
}

TEST_F(WorkingSetReplayTest, ADrainInTheMiddleCancelsItAndFillsAll) {
    for (const PagerConfig& config : {quick_config(), before()}) {
        Guest guest(4096);
        Latch latch;
        const auto source = std::make_shared<ScriptedSource>(4096, [&](std::uint64_t, std::uint64_t) {
            latch.wait();
            return ReadResult{};
        });
        const auto session = serve(guest, source, pages_of({{0, 4096}}), config);
        ASSERT_TRUE(eventually([&] { return latch.waiting() >= 1; }));
        session->drain(60'000'000'000);
        latch.open();
        ASSERT_TRUE(session->wait_closed(20s));
        EXPECT_EQ(session->end_reason(), EndReason::drained);
        EXPECT_LT(session->counters().prefetched, 4096U);
        for (std::uint64_t page = 0; page < 4096; page += 17) {
            ASSERT_TRUE(guest.holds_source(page)) << page;
        }
    }
}

TEST_F(WorkingSetReplayTest, AScanOverAScatteredWorkingSetFaultsOnlyOnceAWindow) {
    constexpr std::uint64_t kMany = 4096;
    Guest guest(kMany);
    std::vector<GuestRun> runs;
    for (std::uint64_t page = 3; page < kMany; page += 7) {
        runs.push_back({kGuestStart + page * kPage, kPage});
    }
    const std::uint64_t scattered = runs.size();
    const auto session = serve(guest, std::make_shared<ScriptedSource>(kMany), make_guest_runs(std::move(runs)));
    ASSERT_TRUE(prefetched(session, scattered));
    for (std::uint64_t page = 0; page < kMany; ++page) {
        ASSERT_TRUE(guest.holds_source(page)) << page;
    }
    EXPECT_TRUE(eventually([&] { return session->counters().installed == kMany; }));  // counted after the wake-up
    // 1, 2, 4 ... 512 pages, then 512 at a time. A toucher that catches up with a fill joins it or, read after it,
    // finds the page there: as often as threads are scheduled so.
    const PagerCounters& counters = session->counters();
    EXPECT_LT(counters.faults - counters.coalesced - counters.redundant, 120U);
    drain(session);
}

TEST_F(WorkingSetReplayTest, RemoveStormsAndDemandBesideItLoseNothing) {
    for (int round = 0; round < 10; ++round) {
        constexpr std::uint64_t kMany = 1024;
        Guest guest(kMany);
        std::vector<GuestRun> runs;
        for (std::uint64_t page = 0; page < kMany; page += 3) {
            runs.push_back({kGuestStart + page * kPage, 2 * kPage});
        }
        const auto session = serve(guest, std::make_shared<ScriptedSource>(kMany), make_guest_runs(std::move(runs)));
        std::atomic<bool> wrong{false};
        std::vector<std::atomic<bool>> removed(kMany);
        Crew crew;
        for (std::uint64_t thread = 0; thread < 3; ++thread) {
            crew.start([&, thread] {
                testing::SplitMix random(static_cast<std::uint64_t>(round) * 10 + thread);
                for (int i = 0; i < 600; ++i) {
                    const std::uint64_t page = random.below(kMany);
                    const bool was_removed = removed[page].load();
                    const std::uint64_t found = guest.word(page, 1);
                    if (was_removed ? found != 0 : found != 0 && found != word_at(page * kPage + 8)) {
                        wrong = true;
                    }
                }
            });
        }
        crew.start([&] {
            testing::SplitMix random(static_cast<std::uint64_t>(round) * 10 + 7);
            for (int i = 0; i < 100; ++i) {
                const std::uint64_t first = random.below(kMany - 4);
                guest.remove(first, 4);
                for (std::uint64_t page = first; page < first + 4; ++page) {
                    removed[page] = true;
                }
            }
        });
        crew.finish_or_die("touchers or removers beside the replay");
        for (std::uint64_t page = 0; page < kMany; ++page) {
            ASSERT_TRUE(removed[page] ? guest.holds_zeros(page) : guest.holds_source(page)) << page;
        }
        EXPECT_FALSE(wrong);
        EXPECT_TRUE(session->failures().empty());
        drain(session);
    }
}

}  // namespace
}  // namespace vmthaw
