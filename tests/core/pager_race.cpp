#include <gtest/gtest.h>

#include <sstream>

#include "pager/registration_check.hpp"
#include "pager_support.hpp"
#include "source/file/file_source.hpp"
#include "source_support.hpp"

// The real fault loop on a real userfaultfd while other threads take pages away.
namespace vmthaw {
namespace {

using namespace pager_tests;

// What a page may hold: the source's bytes until a madvise began, zeros once one has returned, either in between.
class RemoveLedger {
public:
    explicit RemoveLedger(std::uint64_t pages) : begun_(pages), done_(pages) {}

    void remove(const Guest& guest, std::uint64_t first, std::uint64_t count) {
        for (std::uint64_t page = first; page < first + count; ++page) {
            begun_[page].store(true);
        }
        guest.remove(first, count);
        for (std::uint64_t page = first; page < first + count; ++page) {
            done_[page].store(true);
        }
    }
    // Reads one word and judges it.
    void look(const Guest& guest, std::uint64_t page, std::uint64_t index) {
        const bool was_removed = done_[page].load();
        const std::uint64_t found = guest.word(page, index);
        const bool may_be_zero = begun_[page].load();
        const std::uint64_t source = word_at(page * kPage + index * 8);
        const bool good = (found == 0 && may_be_zero) || (found == source && !was_removed);
        if (!good && wrong_.fetch_add(1) == 0) {
            std::ostringstream text;
            text << "page " << page << " word " << index << " holds " << std::hex << found << ", source " << source
                 << (was_removed   ? ", removed before"
                     : may_be_zero ? ", being removed"
                                   : ", never removed");
            const std::lock_guard lock(mutex_);
            first_ = text.str();
        }
    }
    [[nodiscard]] bool removed(std::uint64_t page) const { return done_[page].load(); }
    [[nodiscard]] std::uint64_t wrong() const { return wrong_.load(); }
    [[nodiscard]] std::string first_wrong() const {
        const std::lock_guard lock(mutex_);
        return first_;
    }

private:
    std::vector<std::atomic<bool>> begun_;
    std::vector<std::atomic<bool>> done_;
    std::atomic<std::uint64_t> wrong_{0};
    mutable std::mutex mutex_;
    std::string first_;
};

constexpr std::uint64_t kWrittenWord = 100;  // touchers write it and nobody looks at it

void touch_all(const Guest& guest, RemoveLedger& ledger, std::uint64_t seed) {
    testing::SplitMix random(seed);
    // Runs of pages, so that windows grow over what others remove; every page in the end.
    for (int i = 0; i < 60; ++i) {
        const std::uint64_t first = random.below(guest.pages());
        const std::uint64_t count = 1 + random.below(24);
        for (std::uint64_t page = first; page < std::min(first + count, guest.pages()); ++page) {
            if (random.below(8) == 0) {
                guest.write(page, kWrittenWord, seed);
            }
            ledger.look(guest, page, 0);
            ledger.look(guest, page, kWords - 1);
        }
    }
    for (std::uint64_t page = 0; page < guest.pages(); ++page) {
        ledger.look(guest, page, 1 + random.below(50));
    }
}

struct RaceOptions {
    int rounds = 1;
    std::uint64_t pages = 256;
    PagerConfig config;
    bool writes = true;
    bool keep_descriptor = false;  // as VMMs do
    bool remove_while_draining = false;
};

void race(const RaceOptions& options, const std::function<std::shared_ptr<PageSource>()>& make_source) {
    for (int round = 0; round < options.rounds; ++round) {
        Guest guest(options.pages);
        Userfaultfd kept = options.keep_descriptor ? guest.clone() : Userfaultfd(UniqueFd(), {});
        RemoveLedger ledger(options.pages);
        const std::shared_ptr<PagerSession> session = guest.serve(make_source(), options.config);
        Crew touchers;
        Crew removers;
        std::atomic<bool> stop{false};
        for (std::uint64_t i = 0; i < 4; ++i) {
            touchers.start([&, i] { touch_all(guest, ledger, static_cast<std::uint64_t>(round) * 100 + i); });
        }
        for (std::uint64_t i = 0; i < 3; ++i) {
            removers.start([&, i] {
                testing::SplitMix random(static_cast<std::uint64_t>(round) * 100 + 50 + i);
                for (int n = 0; n < 40 || (options.remove_while_draining && !stop); ++n) {
                    const std::uint64_t first = random.below(options.pages);
                    ledger.remove(guest, first, std::min(1 + random.below(6), options.pages - first));
                    if (n >= 40) {
                        std::this_thread::sleep_for(100us);  // a storm without end leaves no moment for a fill
                    }
                }
            });
        }
        touchers.finish_or_die("touchers");
        if (!options.remove_while_draining) {
            removers.finish_or_die("removers");
        }
        drain(session);
        stop = true;
        removers.finish_or_die("removers, after the drain");
        EXPECT_EQ(session->end_reason(), EndReason::drained);
        EXPECT_TRUE(session->failures().empty()) << session->failures().front();
        EXPECT_EQ(session->counters().failed, 0U);
        const std::vector<UnregisteredRange> bare = find_unregistered(::getpid(), guest.regions());
        std::uint64_t unregistered = 0;
        for (const UnregisteredRange& range : bare) {
            unregistered += range.end - range.start;
        }
        EXPECT_EQ(unregistered, options.pages * kPage) << "drained, and yet still registered";
        for (std::uint64_t page = 0; page < options.pages; ++page) {
            for (std::uint64_t index = 0; index < kWords; ++index) {
                if (index != kWrittenWord) {
                    ledger.look(guest, page, index);
                }
            }
        }
        ASSERT_EQ(ledger.wrong(), 0U) << ledger.first_wrong() << " (round " << round << ")";
    }
}

// A file whose words are word_at().
class RaceTest : public ::testing::Test {
protected:
    void SetUp() override {
        VMTHAW_NEEDS_USERFAULTFD();
        std::vector<std::uint64_t> words(kPages * kWords);
        for (std::uint64_t i = 0; i < words.size(); ++i) {
            words[i] = word_at(i * 8);
        }
        ASSERT_EQ(::pwrite(file_.fd(), words.data(), words.size() * 8, 0), static_cast<ssize_t>(words.size() * 8));
    }
    static constexpr std::uint64_t kPages = 256;
    source_tests::TemporaryFile file_{"/dev/shm"};
};

TEST_F(RaceTest, RemovedPagesAreZerosAndOthersTheFileInEveryFillMode) {
    for (const FillMode mode : {FillMode::page, FillMode::block, FillMode::window}) {
        RaceOptions options;
        options.rounds = 12;
        options.config.fill_mode = mode;
        options.config.fill_bytes = 128 * 1024;
        race(options, [&] { return std::make_shared<FileSource>(file_.path()); });
    }
}

TEST_F(RaceTest, OneWorkerPerDescriptorLosesNothingEither) {
    RaceOptions options;
    options.rounds = 12;
    options.config.placement = Placement::sharded;
    options.config.fill_bytes = 128 * 1024;
    race(options, [&] { return std::make_shared<FileSource>(file_.path()); });
}

TEST_F(RaceTest, FillsOfASlowSourceAreUnderWayWhenPagesGo) {
    RaceOptions options;
    options.rounds = 6;
    options.pages = 128;
    options.config = quick_config();
    options.config.fill_mode = FillMode::block;
    options.config.fill_bytes = 32 * 1024;
    race(options, [] {
        return std::make_shared<ScriptedSource>(128, [](std::uint64_t offset, std::uint64_t) {
            std::this_thread::sleep_for(std::chrono::microseconds(testing::mix64(offset) % 500));
            return ReadResult{};
        });
    });
}

TEST_F(RaceTest, AFailingSourceIsTriedAgainAndLosesNothing) {
    RaceOptions options;
    options.rounds = 4;
    options.pages = 128;
    options.config = quick_config();
    options.config.retries = 100;
    options.config.fill_bytes = 64 * 1024;
    race(options, [] {
        auto count = std::make_shared<std::atomic<std::uint64_t>>(0);
        return std::make_shared<ScriptedSource>(128, [count](std::uint64_t, std::uint64_t) {
            const bool fail = testing::mix64(count->fetch_add(1)) % 4 == 0;
            return fail ? ReadResult{ReadStatus::io_error, EIO, 0} : ReadResult{};
        });
    });
}

TEST_F(RaceTest, ManyFaultsInFlightAreBoundedAndAllAnswered) {
    RaceOptions options;
    options.rounds = 2;
    options.pages = 128;
    options.config = quick_config();
    options.config.max_in_flight = 64;
    options.config.fill_mode = FillMode::page;
    race(options, [] {
        return std::make_shared<ScriptedSource>(128, [](std::uint64_t, std::uint64_t) {
            std::this_thread::sleep_for(100us);
            return ReadResult{};
        });
    });
}

// A VMM keeps its descriptor: a madvise whose event nobody reads after the drain would hang for ever.
TEST_F(RaceTest, RemovesThatMeetTheEndOfADrainReturn) {
    RaceOptions options;
    options.rounds = 20;
    options.keep_descriptor = true;
    options.remove_while_draining = true;
    race(options, [&] { return std::make_shared<FileSource>(file_.path()); });
}

}  // namespace
}  // namespace vmthaw
