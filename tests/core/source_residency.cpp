// What the source knows about the page cache: cold and warm, asked and not asked for.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "source/file/file_source.hpp"
#include "source_support.hpp"

namespace vmthaw::source_tests {
namespace {

constexpr std::uint64_t kResidencyPages = 1024;
constexpr std::uint64_t kResidencySize = kResidencyPages * kPage;

// Files on a disk whose pages can be thrown out of the cache; on a tmpfs there is no such thing as cold.
class SourceResidency : public ::testing::Test {
protected:
    void SetUp() override {
        file_.fill(0, kResidencySize);
        file_.evict();
        if (file_.resident_pages(0, kResidencySize) != 0) {
            GTEST_SKIP() << "the page cache of " << TemporaryFile::disk() << " cannot be emptied";
        }
    }
    // That a cold page is refused. A read that may not wait starts the disk all the same, and succeeds where the disk
    // was done before the thread ran on, which some disks always are: pages that the kernel is asked for in between
    // tell how often. A source that waits is never refused while they are, again and again; a disk that is done each
    // time shows nothing.
    bool refuses_cold_pages(FileSource& source, std::uint64_t first) const {
        constexpr int kRefusals = 16;
        std::vector<std::byte> page(kPage);
        int kernel_refused = 0;
        for (std::uint64_t index = first; index + 1 < first + 400 && kernel_refused < kRefusals; index += 2) {
            if (!source.read_now(index * kPage, page)) {
                return true;
            }
            kernel_refused += file_.refuses_to_wait((index + 1) * kPage) ? 1 : 0;
        }
        return kernel_refused < kRefusals;
    }
    TemporaryFile file_;
};

TEST_F(SourceResidency, AColdRangeIsNotReadyUntilItWasPrepared) {
    FileSource source(file_.path());
    EXPECT_FALSE(source.ready(100 * kPage, kPage));
    ASSERT_TRUE(source.prepare(100 * kPage, 8 * kPage).ok());
    EXPECT_TRUE(source.ready(100 * kPage, 8 * kPage));
    EXPECT_FALSE(source.ready(100 * kPage, 9 * kPage));
    EXPECT_FALSE(source.ready(99 * kPage, 2 * kPage));
}

TEST_F(SourceResidency, ALonePageIsReadAtOnceUntilItsNeighbourhoodIsWorthMapping) {
    constexpr std::uint64_t kGroup = 64;
    FileSource source(file_.path());
    EXPECT_TRUE(refuses_cold_pages(source, 600));
    std::vector<std::byte> page(kPage);
    const Mapping held = file_.hold(0, kResidencySize);
    ASSERT_TRUE(source.read_now(200 * kPage, page));
    EXPECT_EQ(page, bytes_at(200 * kPage, kPage));
    std::uint64_t read = 0;
    while (read < kGroup && source.read_now((3 * kGroup + read) * kPage, page)) {
        ++read;
    }
    EXPECT_GT(read, 0U);
    EXPECT_LT(read, kGroup) << "a page after the other, and never mapped";
    EXPECT_TRUE(source.read_now(4 * kGroup * kPage, page)) << "the group before it is not mapped";
    ASSERT_TRUE(source.ready(3 * kGroup * kPage, kPage));
    EXPECT_FALSE(source.read_now(4 * kGroup * kPage, page)) << "a stream: mapping all of it is cheaper";
    source.close();
    EXPECT_FALSE(source.read_now(0, page));
}

TEST_F(SourceResidency, WithoutAMappingAWarmPageIsReadAtOnceAndNeverAcrossTheEnd) {
    FileSource source(file_.path(), 0, ShortPolicy::zero, FileMode::pread);
    EXPECT_TRUE(refuses_cold_pages(source, 600));
    std::vector<std::byte> page(kPage);
    const Mapping held = file_.hold(7 * kPage, kPage);
    EXPECT_TRUE(source.read_now(7 * kPage, page));
    EXPECT_EQ(page, bytes_at(7 * kPage, kPage));
    EXPECT_FALSE(source.read_now(kResidencySize - kPage / 2, page));
    EXPECT_FALSE(source.read_now(kResidencySize, page));
    EXPECT_FALSE(source.read_now(~std::uint64_t{0} - 10, page));
}

TEST_F(SourceResidency, OpeningAndPreparingReadNothingThatWasNotAskedFor) {
    FileSource source(file_.path());
    EXPECT_EQ(file_.resident_pages(0, kResidencySize), 0U);
    ASSERT_TRUE(source.prepare(100 * kPage, 8 * kPage).ok());
    EXPECT_EQ(file_.resident_pages(100 * kPage, 8 * kPage), 8U);
    EXPECT_EQ(file_.resident_pages(0, kResidencySize), 8U) << "the kernel read ahead on its own";
    std::vector<std::byte> page(kPage);
    ASSERT_TRUE(source.read(500 * kPage, page).ok());
    EXPECT_LE(file_.resident_pages(0, kResidencySize), 9U) << "the kernel read ahead on its own";
}

TEST_F(SourceResidency, ReadingFromTheStartOnDoesNotWakeTheKernelsReadAhead) {
    for (const FileMode mode : {FileMode::mapped, FileMode::pread}) {
        file_.evict();
        FileSource source(file_.path(), 0, ShortPolicy::zero, mode);
        std::vector<std::byte> page(kPage);
        for (std::uint64_t index = 0; index < 16; ++index) {
            ASSERT_TRUE(source.read(index * kPage, page).ok());
        }
        EXPECT_LE(file_.resident_pages(0, kResidencySize), 16U);
    }
}

TEST_F(SourceResidency, PreparesSeveralMegabytesInOneCall) {
    FileSource source(file_.path());
    ASSERT_TRUE(source.prepare(0, kResidencySize).ok());
    EXPECT_EQ(file_.resident_pages(0, kResidencySize), kResidencyPages);
    EXPECT_TRUE(source.ready(0, kResidencySize));
}

TEST_F(SourceResidency, HolesDoNotKeepARangeCold) {
    file_.punch(10 * kPage, 20 * kPage);
    file_.evict();
    FileSource source(file_.path());
    EXPECT_TRUE(source.ready(10 * kPage, 20 * kPage));
    EXPECT_FALSE(source.ready(9 * kPage, 21 * kPage));
    ASSERT_TRUE(source.prepare(0, 64 * kPage).ok());
    EXPECT_TRUE(source.ready(0, 64 * kPage));
    EXPECT_EQ(file_.resident_pages(10 * kPage, 20 * kPage), 0U);
}

TEST_F(SourceResidency, ThePreadModeIsNeverReadyAndReadsOnlyWhatWasAskedFor) {
    FileSource source(file_.path(), 0, ShortPolicy::zero, FileMode::pread);
    std::vector<std::byte> page(kPage);
    ASSERT_TRUE(source.read(500 * kPage, page).ok());
    EXPECT_EQ(page, bytes_at(500 * kPage, kPage));
    EXPECT_LE(file_.resident_pages(0, kResidencySize), 1U);
    EXPECT_FALSE(source.ready(500 * kPage, kPage));
    EXPECT_EQ(source.mapped(500 * kPage, kPage), nullptr);
}

TEST_F(SourceResidency, APartialLastPageCanBePrepared) {
    file_.resize(kResidencySize - 1000);
    file_.evict();
    FileSource source(file_.path());
    EXPECT_FALSE(source.ready(kResidencySize - kPage, kPage));
    ASSERT_TRUE(source.prepare(kResidencySize - kPage, kPage).ok());
    EXPECT_TRUE(source.ready(kResidencySize - kPage, kPage));
}

// The kernel tells strangers that every page is resident; believing it would stop the fault thread at the disk.
TEST_F(SourceResidency, AFileOfSomebodyElseIsNotTakenForWarm) {
    if (::geteuid() != 0) {
        GTEST_SKIP() << "needs root, to become somebody else";
    }
    ASSERT_EQ(::fchmod(file_.fd(), 0644), 0);
    const pid_t child = ::fork();
    if (child == 0) {
        if (::setresgid(65534, 65534, 65534) != 0 || ::setresuid(65534, 65534, 65534) != 0) {
            ::_exit(10);
        }
        FileSource source(file_.path());
        // All of it: of one cold page, the disk may be done before the answer.
        if (source.ready(0, kResidencySize)) {
            ::_exit(11);
        }
        if (!source.prepare(100 * kPage, 8 * kPage).ok()) {
            ::_exit(12);
        }
        ::_exit(source.ready(100 * kPage, 8 * kPage) && !source.ready(0, kResidencySize) ? 0 : 13);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace vmthaw::source_tests
