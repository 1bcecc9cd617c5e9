#include <gtest/gtest.h>
#include <sys/wait.h>

#include "descriptor_limit.hpp"
#include "pager_support.hpp"

// Events that arrive while a slow source holds up a fill: every thread gets its answer, and the right one.
namespace vmthaw {
namespace {

using namespace pager_tests;

constexpr std::uint64_t kEventPages = 64;

Features with_events() {
    return Features(static_cast<std::uint64_t>(Feature::event_unmap) |
                    static_cast<std::uint64_t>(Feature::event_remap));
}

PagerConfig blocks_of_16() {
    PagerConfig config = quick_config();
    config.fill_mode = FillMode::block;
    config.fill_bytes = 16 * kPage;
    return config;
}

// A guest whose source stands still until `latch` opens; thread 1 has touched page 0 and so claimed pages 0 to 15.
class HeldFill : public ::testing::Test {
protected:
    void SetUp() override { VMTHAW_NEEDS_USERFAULTFD(); }
    void begin(Features more = {}, std::uint64_t hold_from = 0) {
        guest_ = std::make_unique<Guest>(kEventPages, more);
        kept_ = std::make_unique<Userfaultfd>(guest_->clone());
        source_ = std::make_shared<ScriptedSource>(kEventPages, [this, hold_from](std::uint64_t offset, std::uint64_t) {
            if (offset >= hold_from) {
                latch_.wait();
            }
            return answer_;
        });
        session_ = guest_->serve(source_, blocks_of_16());
        touch(0);
        ASSERT_TRUE(eventually([this] { return latch_.waiting() == 1; }));
    }
    void touch(std::uint64_t page) {
        crew_.start([this, page] { seen_[page] = guest_->word(page, 7); });
    }
    // Its fault has been read and joined to the fill under way.
    void touch_and_join(std::uint64_t page) {
        const std::uint64_t before = session_->counters().coalesced;
        touch(page);
        ASSERT_TRUE(eventually([&] { return session_->counters().coalesced > before; }));
    }
    [[nodiscard]] static std::uint64_t source_word(std::uint64_t page) { return word_at(page * kPage + 7 * 8); }
    void finish(const char* what) {
        latch_.open();
        crew_.finish_or_die(what);
    }
    void TearDown() override {
        if (session_ && session_->state() != SessionState::closed) {
            latch_.open();
            drain(session_);
        }
    }

    Latch latch_;
    ReadResult answer_;
    std::unique_ptr<Guest> guest_;
    std::unique_ptr<Userfaultfd> kept_;
    std::shared_ptr<ScriptedSource> source_;
    std::shared_ptr<PagerSession> session_;
    Crew crew_;
    std::array<std::atomic<std::uint64_t>, kEventPages> seen_{};
};

TEST_F(HeldFill, AThreadThatJoinedAFillOfAPageRemovedSinceReadsZeros) {
    begin();
    touch_and_join(5);
    guest_->remove(5, 1);
    finish("joined a fill, page removed");
    EXPECT_EQ(seen_[0], source_word(0));
    EXPECT_EQ(seen_[5], 0U);
    EXPECT_TRUE(guest_->holds_zeros(5));
    EXPECT_TRUE(guest_->holds_source(6));
}

TEST_F(HeldFill, TheTouchedPageItselfMayBeRemoved) {
    begin();
    guest_->remove(0, 2);
    touch(1);
    finish("touched page removed");
    EXPECT_EQ(seen_[0], 0U);
    EXPECT_EQ(seen_[1], 0U);
    EXPECT_TRUE(guest_->holds_source(2));
}

TEST_F(HeldFill, UnmappingThePartUnderFillLeavesTheRestServed) {
    begin(with_events(), kPage);  // page 0 is there; pages 1 to 15 are being read
    touch_and_join(9);
    guest_->unmap(1, 4);
    finish("part unmapped");
    EXPECT_EQ(seen_[9], source_word(9));
    for (std::uint64_t page = 5; page < kEventPages; ++page) {
        touch(page);
    }
    crew_.finish_or_die("behind the unmapped part");
    for (std::uint64_t page = 5; page < kEventPages; ++page) {
        EXPECT_EQ(seen_[page], source_word(page)) << page;
    }
}

TEST_F(HeldFill, MovedMemoryKeepsItsBytesAndItsRemovedPages) {
    begin(with_events());
    guest_->remove(20, 1);
    const Mapping owner = guest_->move_away(16, 16);
    const std::byte* const moved = owner.data();
    finish("moved");
    const auto* words = reinterpret_cast<const std::uint64_t*>(moved);
    std::array<std::uint64_t, 16> found{};
    crew_.start([&] {
        for (std::uint64_t page = 0; page < 16; ++page) {
            found[page] = words[page * kWords + 7];
        }
    });
    crew_.finish_or_die("touching moved memory");
    for (std::uint64_t page = 0; page < 16; ++page) {
        EXPECT_EQ(found[page], page == 4 ? 0 : source_word(16 + page)) << page;
    }
    drain(session_);
}

TEST_F(HeldFill, MemoryMovedFromUnderAFillIsServedAtItsNewPlace) {
    begin(with_events());
    touch_and_join(3);
    const Mapping owner = guest_->move_away(8, 8);
    finish("moved from under a fill");
    std::uint64_t found = 0;
    crew_.start([&] { found = reinterpret_cast<const std::uint64_t*>(owner.data())[2 * kWords + 7]; });
    crew_.finish_or_die("touching what was claimed and moved");
    EXPECT_EQ(found, source_word(10));
    EXPECT_EQ(seen_[3], source_word(3));
}

TEST_F(HeldFill, EndingWhileTheSourceWorksIsSafe) {
    begin();
    const DetachedSession detached = [this] {
        std::thread opener([this] {
            std::this_thread::sleep_for(20ms);
            latch_.open();
        });
        DetachedSession result = session_->detach();
        opener.join();
        return result;
    }();
    ASSERT_EQ(detached.regions.size(), 1U);
    EXPECT_EQ(detached.page_states[0].size(), kEventPages);
    // The taker's job: answer the thread that still waits.
    const std::uint64_t zeros[kWords] = {};
    const Userfaultfd taker(UniqueFd(detached.fd.get()), {});
    EXPECT_EQ(taker.copy(guest_->address(0), zeros, kPage).status, FillStatus::done);
    static_cast<void>(const_cast<Userfaultfd&>(taker).release().release());
    crew_.finish_or_die("detached");
}

class ForkingGuest : public HeldFill {
protected:
    void SetUp() override {
        HeldFill::SetUp();
        if (::geteuid() != 0) {
            GTEST_SKIP() << "FORK events need CAP_SYS_PTRACE";
        }
    }
    // The child looks at a page that is served, one that was removed, and one that was there.
    void fork_and_look() {
        // Not fork(): it holds malloc's locks while it waits for our own threads to read the message.
        const pid_t child = ::_Fork();
        ASSERT_GE(child, 0);
        if (child == 0) {
            // Plain loads and _exit(): nothing else works in the child of a process with threads.
            const auto* words = reinterpret_cast<const volatile std::uint64_t*>(guest_->page(0));
            const bool right =
                words[50 * kWords + 7] == source_word(50) && words[40 * kWords] == 0 && words[0] == word_at(0);
            ::_exit(right ? 0 : 1);
        }
        int status = -1;
        ASSERT_TRUE(eventually([&] { return ::waitpid(child, &status, WNOHANG) == child; })) << "the child hangs";
        EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
    }
};

TEST_F(ForkingGuest, ItsChildIsServedTheSameMemory) {
    begin(Features(static_cast<std::uint64_t>(Feature::event_fork)));
    guest_->remove(40, 1);
    finish("before the fork");
    fork_and_look();
}

TEST_F(ForkingGuest, ForksOnceTheServerIsNoLongerOutOfDescriptors) {
    begin(Features(static_cast<std::uint64_t>(Feature::event_fork)));
    guest_->remove(40, 1);
    finish("before the fork");
    const DescriptorLimit none(0);
    std::atomic<bool> forked{false};
    Crew helper;
    helper.start([&] {
        std::this_thread::sleep_for(100ms);  // the FORK is refused meanwhile, more than once
        EXPECT_FALSE(forked.load());
        none.lift();
    });
    fork_and_look();
    forked = true;
    helper.finish_or_die("the limit is back");
}

}  // namespace
}  // namespace vmthaw
