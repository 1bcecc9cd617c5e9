// A file that is cut while it is served: errors, in every order and on a real userfaultfd, never a SIGBUS.
#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <optional>
#include <thread>

#include "base/mapping.hpp"
#include "source/file/file_source.hpp"
#include "source_support.hpp"
#include "userfaultfd/userfaultfd_factory.hpp"

namespace vmthaw::source_tests {
namespace {

constexpr std::uint64_t kShrinkPages = 64;
constexpr std::uint64_t kShrinkSize = kShrinkPages * kPage;

class SourceFileShrink : public ::testing::TestWithParam<FileMode> {
protected:
    SourceFileShrink() { file_.fill(0, kShrinkSize); }
    TemporaryFile file_;
};

TEST_P(SourceFileShrink, EveryCallSaysShortReadAfterTheFileWasCut) {
    FileSource source(file_.path(), 0, ShortPolicy::zero, GetParam());
    file_.resize(10 * kPage);
    std::vector<std::byte> page(kPage);
    const ReadResult read = source.read(32 * kPage, page);
    EXPECT_EQ(read.status, ReadStatus::short_read);
    EXPECT_EQ(read.got_bytes, 0U);
    EXPECT_EQ(source.prepare(32 * kPage, kPage).status, ReadStatus::short_read);
    EXPECT_EQ(source.still_whole().status, ReadStatus::short_read);
    EXPECT_EQ(source.still_whole().got_bytes, 10 * kPage);
}

TEST_P(SourceFileShrink, ACutInsideAPageIsShortWithTheBytesThatAreLeft) {
    FileSource source(file_.path(), 0, ShortPolicy::zero, GetParam());
    file_.resize(10 * kPage + 1000);
    std::vector<std::byte> page(kPage);
    const ReadResult read = source.read(10 * kPage, page);
    EXPECT_EQ(read.status, ReadStatus::short_read) << "the zeros behind the cut were taken for bytes of the file";
    EXPECT_EQ(read.got_bytes, 1000U);
    EXPECT_EQ(source.prepare(10 * kPage, kPage).got_bytes, 1000U);
    EXPECT_FALSE(source.still_whole().ok());
}

TEST_P(SourceFileShrink, APartialLastPageThatLosesBytesIsShortAndNotZeros) {
    file_.resize(kShrinkSize - 100);
    FileSource source(file_.path(), 0, ShortPolicy::zero, GetParam());
    std::vector<std::byte> page(kPage);
    ASSERT_TRUE(source.read(kShrinkSize - kPage, page).ok());
    file_.resize(kShrinkSize - 200);
    EXPECT_EQ(source.read(kShrinkSize - kPage, page).status, ReadStatus::short_read);
}

TEST_P(SourceFileShrink, WhatIsLeftOfACutFileIsNotServedEither) {
    FileSource source(file_.path(), 0, ShortPolicy::zero, GetParam());
    file_.resize(10 * kPage);
    std::vector<std::byte> page(kPage);
    const ReadResult read = source.read(0, page);
    EXPECT_EQ(read.status, ReadStatus::short_read) << "a file that was cut is no longer the snapshot";
    EXPECT_EQ(read.got_bytes, kPage);
}

TEST_P(SourceFileShrink, AFileThatHasItsSizeBackIsServedAgain) {
    FileSource source(file_.path(), 0, ShortPolicy::zero, GetParam());
    file_.resize(kPage);
    EXPECT_FALSE(source.still_whole().ok());
    file_.fill(0, kShrinkSize);
    std::vector<std::byte> page(kPage);
    EXPECT_TRUE(source.read(20 * kPage, page).ok());
    EXPECT_EQ(page, bytes_at(20 * kPage, kPage));
}

TEST_P(SourceFileShrink, ReadersSurviveAFileThatIsCutAndRestoredAllTheTime) {
    FileSource source(file_.path(), 0, ShortPolicy::zero, GetParam());
    std::atomic<bool> stop{false};
    std::atomic<int> wrong{0};
    std::atomic<int> short_reads{0};
    std::vector<std::thread> readers;
    for (int i = 0; i < 2; ++i) {
        readers.emplace_back([&] {
            std::vector<std::byte> page(kPage);
            while (!stop) {
                // Page 40 loses its second half in each cut, page 0 never anything: only true bytes may come as ok.
                if (source.read(0, page).ok() && page != bytes_at(0, kPage)) {
                    ++wrong;
                }
                const ReadResult prepared = source.prepare(40 * kPage, kPage);
                const ReadResult read = source.read(50 * kPage, page);
                short_reads += read.status == ReadStatus::short_read ? 1 : 0;
                const auto allowed = [](const ReadResult& result) {
                    return result.ok() || result.status == ReadStatus::short_read ||
                           (result.status == ReadStatus::io_error && result.errno_value == EIO);
                };
                wrong += allowed(prepared) && allowed(read) ? 0 : 1;
            }
        });
    }
    for (int i = 0; i < 300; ++i) {
        file_.resize(40 * kPage + 2048);
        file_.fill(40 * kPage, kShrinkSize - 40 * kPage);
    }
    file_.resize(40 * kPage);
    while (short_reads == 0) {
        std::this_thread::yield();
    }
    stop = true;
    for (std::thread& reader : readers) {
        reader.join();
    }
    EXPECT_EQ(wrong, 0);
}

INSTANTIATE_TEST_SUITE_P(Modes, SourceFileShrink, ::testing::Values(FileMode::mapped, FileMode::pread),
                         [](const auto& tested) { return tested.param == FileMode::mapped ? "Mapped" : "Pread"; });

// Anonymous memory of this process whose missing pages a userfaultfd fills from the mapping of a source.
class SourceFileCopied : public ::testing::Test {
protected:
    void SetUp() override {
        try {
            uffd_.emplace(
                UserfaultfdFactory(UserfaultfdOptions{.user_mode_only = true, .required = Features()}).create());
        } catch (const SystemError& error) {
            GTEST_SKIP() << "no userfaultfd: " << error.what();
        }
        file_.fill(0, kShrinkSize);
        memory_ = Mapping::anonymous(kShrinkSize);
        uffd_->register_range(address(0), kShrinkSize, kRegisterMissing);
    }
    [[nodiscard]] std::uint64_t address(std::uint64_t offset) const {
        return reinterpret_cast<std::uint64_t>(memory_.data()) + offset;
    }
    TemporaryFile file_;
    Mapping memory_;
    std::optional<Userfaultfd> uffd_;
};

TEST_F(SourceFileCopied, CopiesStraightFromTheMapping) {
    FileSource source(file_.path());
    ASSERT_TRUE(source.prepare(0, kShrinkSize).ok());
    const FillOutcome outcome = uffd_->copy(address(0), source.mapped(0, kShrinkSize), kShrinkSize);
    EXPECT_EQ(outcome.status, FillStatus::done);
    EXPECT_TRUE(std::ranges::equal(memory_.bytes(), bytes_at(0, kShrinkSize)));
}

TEST_F(SourceFileCopied, ACutFileIsABadSourceToTheKernelAndNoSignal) {
    FileSource source(file_.path());
    ASSERT_TRUE(source.prepare(0, kShrinkSize).ok());
    file_.resize(10 * kPage);
    EXPECT_EQ(source.still_whole().status, ReadStatus::short_read);
    // A server that did not look, or looked just before the cut.
    const FillOutcome behind = uffd_->copy(address(20 * kPage), source.mapped(20 * kPage, kPage), kPage);
    EXPECT_EQ(behind.status, FillStatus::bad_source);
    const FillOutcome across = uffd_->copy(address(8 * kPage), source.mapped(8 * kPage, 4 * kPage), 4 * kPage);
    EXPECT_EQ(across.status, FillStatus::bad_source);
    EXPECT_EQ(across.done_bytes, 2 * kPage);
    EXPECT_TRUE(std::ranges::equal(memory_.bytes().subspan(8 * kPage, 2 * kPage), bytes_at(8 * kPage, 2 * kPage)));
}

TEST_F(SourceFileCopied, AMappingOutlivesCloseSoThatACopyUnderWayIsNotCutOff) {
    FileSource source(file_.path());
    const std::byte* bytes = source.mapped(0, kPage);
    source.close();
    EXPECT_EQ(uffd_->copy(address(0), bytes, kPage).status, FillStatus::done);
    EXPECT_TRUE(std::ranges::equal(memory_.bytes().first(kPage), bytes_at(0, kPage)));
}

TEST_F(SourceFileCopied, CopiesSurviveAFileThatIsCutAndRestoredAllTheTime) {
    FileSource source(file_.path());
    std::atomic<bool> stop{false};
    std::thread cutter([&] {
        while (!stop) {
            file_.resize(32 * kPage);
            file_.fill(32 * kPage, kShrinkSize - 32 * kPage);
        }
    });
    int done = 0;
    int refused = 0;
    int other = 0;
    for (int round = 0; round < 200 || (refused == 0 && round < 20000); ++round) {
        for (std::uint64_t page = 0; page < kShrinkPages; ++page) {
            const FillOutcome outcome = uffd_->copy(address(page * kPage), source.mapped(page * kPage, kPage), kPage);
            done += outcome.status == FillStatus::done ? 1 : 0;
            refused += outcome.status == FillStatus::bad_source ? 1 : 0;
            other += outcome.status != FillStatus::done && outcome.status != FillStatus::bad_source ? 1 : 0;
        }
        ::madvise(memory_.data(), kShrinkSize, MADV_DONTNEED);
    }
    stop = true;
    cutter.join();
    EXPECT_GT(done, 0);
    EXPECT_GT(refused, 0);
    EXPECT_EQ(other, 0);
}

}  // namespace
}  // namespace vmthaw::source_tests
