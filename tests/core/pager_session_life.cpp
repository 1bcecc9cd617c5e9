#include <gtest/gtest.h>
#include <sys/wait.h>

#include "pager_support.hpp"

// How sessions begin and end.
namespace vmthaw {
namespace {

using namespace pager_tests;

constexpr std::uint64_t kLifePages = 16;

class SessionLife : public ::testing::Test {
protected:
    void SetUp() override { VMTHAW_NEEDS_USERFAULTFD(); }
};

// A process that has exited and whose pidfd says so at once.
PidFd exited_process() {
    const pid_t child = ::fork();
    if (child == 0) {
        ::_exit(0);
    }
    PidFd pid_fd = PidFd::open(check_errno(child, "fork"));
    check_errno(::waitpid(child, nullptr, 0), "waitpid");
    return pid_fd;
}

TEST_F(SessionLife, APeerThatIsGoneBeforeTheStartLeavesNothingBehind) {
    for (int round = 0; round < 40; ++round) {
        Guest guest(kLifePages);
        std::weak_ptr<PagerSession> weak;
        {
            const auto session = PagerSession::create({.userfaultfd = guest.clone(),
                                                       .regions = guest.regions(),
                                                       .source = std::make_shared<ScriptedSource>(kLifePages),
                                                       .config = {},
                                                       .pid_fd = exited_process(),
                                                       .socket = {},
                                                       .label = "gone",
                                                       .prewarm = {},
                                                       .page_states = {}},
                                                      nullptr);
            weak = session;
            session->start();
            ASSERT_TRUE(session->wait_closed(10s));
            EXPECT_EQ(session->end_reason(), EndReason::vm_exited);
        }
        ASSERT_TRUE(eventually([&] { return weak.expired(); })) << "somebody still holds it, round " << round;
    }
}

TEST_F(SessionLife, ADrainDuringThePrewarmComesAfterIt) {
    Latch latch;
    Guest guest(kLifePages);
    const auto session = guest.serve(std::make_shared<ScriptedSource>(kLifePages,
                                                                      [&](std::uint64_t, std::uint64_t) {
                                                                          latch.wait();
                                                                          return ReadResult{};
                                                                      }),
                                     quick_config(), nullptr, {0x4000'0000 + 3 * kPage});
    ASSERT_TRUE(eventually([&] { return latch.waiting() == 1; }));
    EXPECT_EQ(session->state(), SessionState::preparing);
    session->drain(60'000'000'000);
    latch.open();
    ASSERT_TRUE(session->wait_closed(10s));
    EXPECT_EQ(session->end_reason(), EndReason::drained);
    EXPECT_EQ(session->counters().prewarmed, 1U);
    EXPECT_TRUE(guest.holds_source(3));
    EXPECT_TRUE(guest.holds_source(15));
}

TEST_F(SessionLife, ADrainWithoutTimeOutDoesNotGiveUpAtOnce) {
    Guest guest(kLifePages);
    const auto session = guest.serve(std::make_shared<ScriptedSource>(kLifePages, [](std::uint64_t, std::uint64_t) {
        std::this_thread::sleep_for(20ms);
        return ReadResult{};
    }));
    session->drain(~std::uint64_t{0});
    ASSERT_TRUE(session->wait_closed(10s));
    EXPECT_EQ(session->end_reason(), EndReason::drained);
    EXPECT_TRUE(session->failures().empty());
}

TEST_F(SessionLife, AnEndedSessionLetsGoOfItsSourceAndItself) {
    std::weak_ptr<PagerSession> weak;
    std::weak_ptr<PageSource> weak_source;
    {
        Guest guest(kLifePages);
        auto source = std::make_shared<ScriptedSource>(kLifePages);
        weak_source = source;
        auto session = guest.serve(std::move(source));
        weak = session;
        drain(session);
    }
    EXPECT_TRUE(eventually([&] { return weak.expired() && weak_source.expired(); }));
}

TEST_F(SessionLife, KillIsRefusedWithoutAForeignProcess) {
    Guest guest(kLifePages);
    const auto session = guest.serve(std::make_shared<ScriptedSource>(kLifePages));
    EXPECT_EQ(session->effective_policy(), FailurePolicy::poison);
    EXPECT_THROW(session->kill(), StateError);
    drain(session);
    EXPECT_THROW(static_cast<void>(session->detach()), StateError);
}

TEST_F(SessionLife, StatesOfADetachedSessionAreTakenUpByTheNext) {
    Guest guest(kLifePages);
    auto session = guest.serve(std::make_shared<ScriptedSource>(kLifePages));
    Crew crew;
    crew.start([&] { static_cast<void>(guest.word(2, 0)); });
    crew.finish_or_die("before detach");
    guest.remove(5, 2);
    DetachedSession detached = session->detach();
    EXPECT_EQ(session->end_reason(), EndReason::detached);
    const auto next = PagerSession::create({.userfaultfd = Userfaultfd::adopt(std::move(detached.fd)),
                                            .regions = detached.regions,
                                            .source = std::make_shared<ScriptedSource>(kLifePages),
                                            .config = {},
                                            .pid_fd = {},
                                            .socket = {},
                                            .label = "next",
                                            .prewarm = {},
                                            .page_states = detached.page_states},
                                           nullptr);
    next->start();
    drain(next);
    for (std::uint64_t page = 0; page < kLifePages; ++page) {
        EXPECT_TRUE(page == 5 || page == 6 ? guest.holds_zeros(page) : guest.holds_source(page)) << page;
    }
}

TEST_F(SessionLife, PagesThatNoTryCanReadEndByThePolicyAndTheRestIsServed) {
    Guest guest(kLifePages);
    PagerConfig config = quick_config();
    config.retries = 2;
    config.fill_mode = FillMode::block;
    const auto source = std::make_shared<ScriptedSource>(kLifePages, [](std::uint64_t offset, std::uint64_t size) {
        const bool bad = offset <= 4 * kPage && 4 * kPage < offset + size;
        return bad ? ReadResult{ReadStatus::io_error, EIO, 0} : ReadResult{};
    });
    const auto session = guest.serve(source, config);
    Crew crew;
    std::atomic<int> right{0};
    crew.start([&] {
        for (std::uint64_t page = 0; page < kLifePages; ++page) {
            right += page != 4 && guest.holds_source(page) ? 1 : 0;
        }
    });
    crew.finish_or_die("all but the bad page");
    EXPECT_EQ(right, 15);
    EXPECT_TRUE(eventually([&] { return session->missing_pages() == 1; }))
        << "neighbours come after what was asked for";
    session->drain(300'000'000);  // gives up: poison
    ASSERT_TRUE(session->wait_closed(10s));
    EXPECT_EQ(session->end_reason(), EndReason::failed);
    EXPECT_FALSE(session->failures().empty());
}

}  // namespace
}  // namespace vmthaw
