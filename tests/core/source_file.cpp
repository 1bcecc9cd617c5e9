// FileSource: what it serves, where it ends, and what it refuses.
#include "source/file/file_source.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <atomic>
#include <random>
#include <thread>

#include "source_support.hpp"

namespace vmthaw::source_tests {
namespace {

struct Setting {
    std::string directory;
    FileMode mode;
};

class SourceFile : public ::testing::TestWithParam<Setting> {
protected:
    [[nodiscard]] TemporaryFile make_file() const { return TemporaryFile(GetParam().directory); }
    [[nodiscard]] FileSource open(const TemporaryFile& file, std::uint64_t ram_start = 0,
                                  ShortPolicy policy = ShortPolicy::zero) const {
        return FileSource(file.path(), ram_start, policy, GetParam().mode);
    }
};

TEST_P(SourceFile, ReadsEveryByteAsWritten) {
    const TemporaryFile file = make_file();
    file.fill(0, 64 * kPage);
    FileSource source = open(file);
    std::vector<std::byte> all(64 * kPage);
    ASSERT_TRUE(source.read(0, all).ok());
    EXPECT_EQ(all, bytes_at(0, 64 * kPage));
    std::vector<std::byte> piece(777);
    ASSERT_TRUE(source.read(4000, piece).ok());
    EXPECT_EQ(piece, bytes_at(4000, 777));
}

TEST_P(SourceFile, HolesAreZerosAndAreNeverRead) {
    const TemporaryFile file = make_file();
    file.resize(512 * kPage);
    file.fill(256 * kPage, kPage);
    FileSource source = open(file);
    std::vector<std::byte> out(512 * kPage, std::byte{0xee});
    ASSERT_TRUE(source.read(0, out).ok());
    EXPECT_TRUE(all_zero(std::span(out).first(256 * kPage)));
    EXPECT_TRUE(std::ranges::equal(std::span(out).subspan(256 * kPage, kPage), bytes_at(256 * kPage, kPage)));
    EXPECT_TRUE(all_zero(std::span(out).subspan(257 * kPage)));
    ASSERT_TRUE(source.prepare(0, 512 * kPage).ok());
    EXPECT_LE(file.resident_pages(0, 512 * kPage), 1U) << "a hole was read into the page cache";
}

TEST_P(SourceFile, AReadAcrossTheEndIsZerosToThePagesEnd) {
    const TemporaryFile file = make_file();
    file.fill(0, 2 * kPage + 100);
    FileSource source = open(file);
    EXPECT_EQ(source.size(), 2 * kPage + 100);
    EXPECT_TRUE(source.covers(0, 3 * kPage));
    EXPECT_FALSE(source.covers(0, 4 * kPage));
    EXPECT_FALSE(source.covers(3 * kPage, kPage));
    std::vector<std::byte> page(kPage, std::byte{0xee});
    ASSERT_TRUE(source.read(2 * kPage, page).ok());
    EXPECT_TRUE(std::ranges::equal(std::span(page).first(100), bytes_at(2 * kPage, 100)));
    EXPECT_TRUE(all_zero(std::span(page).subspan(100)));
    EXPECT_EQ(source.read(3 * kPage, page).status, ReadStatus::out_of_range);
    EXPECT_EQ(source.extent_at(2 * kPage, kPage).size, kPage) << "a page is of one kind";
}

TEST_P(SourceFile, AHugePageAcrossTheEndIsZerosToItsEnd) {
    const TemporaryFile file = make_file();
    file.fill(0, 3 * kPage);
    FileSource source = open(file);
    std::vector<std::byte> page(512 * kPage, std::byte{0xee});
    ASSERT_TRUE(source.read(0, page).ok());
    EXPECT_TRUE(std::ranges::equal(std::span(page).first(3 * kPage), bytes_at(0, 3 * kPage)));
    EXPECT_TRUE(all_zero(std::span(page).subspan(3 * kPage)));
    EXPECT_EQ(source.extent_at(3 * kPage, 509 * kPage).kind, ExtentKind::zero);
    std::vector<std::byte> two_small(6 * kPage);
    EXPECT_EQ(source.read(0, two_small).status, ReadStatus::out_of_range) << "its last small pages lie behind the end";
}

TEST_P(SourceFile, AShortFileCanBeAnErrorInstead) {
    const TemporaryFile file = make_file();
    file.fill(0, 2 * kPage + 100);
    FileSource source = open(file, 0, ShortPolicy::error);
    EXPECT_TRUE(source.covers(0, 2 * kPage));
    EXPECT_FALSE(source.covers(0, 3 * kPage));
    std::vector<std::byte> page(kPage);
    const ReadResult result = source.read(2 * kPage, page);
    EXPECT_EQ(result.status, ReadStatus::short_read);
    EXPECT_EQ(result.got_bytes, 100U);
    EXPECT_TRUE(source.read(kPage, page).ok());
}

TEST_P(SourceFile, TheEndIsTheSizeAtOpenAlthoughTheFileGrows) {
    const TemporaryFile file = make_file();
    file.fill(0, kPage + 100);
    FileSource source = open(file);
    file.fill(0, 4 * kPage);
    std::vector<std::byte> page(kPage, std::byte{0xee});
    ASSERT_TRUE(source.read(kPage, page).ok());
    EXPECT_TRUE(all_zero(std::span(page).subspan(100))) << "bytes written behind the end were served";
    EXPECT_EQ(source.mapped(kPage, kPage), nullptr) << "the mapping would show what was written behind the end";
    EXPECT_EQ(source.size(), kPage + 100);
    EXPECT_TRUE(source.still_whole().ok());
}

TEST_P(SourceFile, RamStartIsTheOffsetOfTheFirstByte) {
    const TemporaryFile file = make_file();
    file.fill(0, 4 * kPage);
    const std::uint64_t start = 1ULL << 40U;
    FileSource source = open(file, start);
    std::vector<std::byte> page(kPage);
    ASSERT_TRUE(source.read(start + kPage, page).ok());
    EXPECT_EQ(page, bytes_at(kPage, kPage));
    EXPECT_EQ(source.read(start - kPage, page).status, ReadStatus::out_of_range);
    EXPECT_EQ(source.read(0, page).status, ReadStatus::out_of_range);
    EXPECT_EQ(source.prepare(0, kPage).status, ReadStatus::out_of_range);
    EXPECT_FALSE(source.ready(0, kPage));
    EXPECT_EQ(source.mapped(0, kPage), nullptr);
    EXPECT_FALSE(source.covers(start - kPage, 2 * kPage));
    EXPECT_TRUE(source.covers(start, 4 * kPage));
    EXPECT_EQ(source.extent_at(0, kPage).kind, ExtentKind::data) << "zeros below the start would hide a mistake";
    EXPECT_EQ(source.extents()[0].offset, start);
}

TEST_P(SourceFile, RangesThatWrapAroundAreRefused) {
    const TemporaryFile file = make_file();
    file.fill(0, kPage);
    FileSource source = open(file, kPage);
    EXPECT_FALSE(source.covers(~std::uint64_t{0}, 2));
    EXPECT_FALSE(source.covers(kPage, ~std::uint64_t{0}));
    EXPECT_FALSE(source.ready(kPage, ~std::uint64_t{0}));
    EXPECT_EQ(source.mapped(2 * kPage, ~std::uint64_t{0}), nullptr);
    EXPECT_EQ(source.prepare(~std::uint64_t{0}, kPage).status, ReadStatus::out_of_range);
}

TEST_P(SourceFile, AfterCloseEverythingSaysClosed) {
    const TemporaryFile file = make_file();
    file.fill(0, kPage);
    FileSource source = open(file);
    source.close();
    source.close();
    std::vector<std::byte> page(kPage);
    EXPECT_EQ(source.read(0, page).status, ReadStatus::closed);
    EXPECT_EQ(source.prepare(0, kPage).status, ReadStatus::closed);
    EXPECT_EQ(source.still_whole().status, ReadStatus::closed);
    EXPECT_FALSE(source.ready(0, kPage));
    EXPECT_EQ(source.mapped(0, kPage), nullptr);
}

TEST_P(SourceFile, ServesASparseTerabyte) {
    const TemporaryFile file = make_file();
    const std::uint64_t size = 10ULL << 40U;
    file.resize(size);
    file.fill(size - kPage, kPage);
    FileSource source = open(file);
    std::vector<std::byte> page(kPage);
    ASSERT_TRUE(source.prepare(size - kPage, kPage).ok());
    ASSERT_TRUE(source.read(size - kPage, page).ok());
    EXPECT_EQ(page, bytes_at(size - kPage, kPage));
    EXPECT_EQ(source.extent_at(0, size).size, size - kPage);
}

TEST_P(SourceFile, ManyThreadsReadAtOnce) {
    const TemporaryFile file = make_file();
    constexpr std::uint64_t kReadPages = 512;
    file.fill(0, kReadPages * kPage);
    file.punch(100 * kPage, 50 * kPage);
    FileSource source = open(file);
    std::atomic<int> wrong{0};
    std::vector<std::thread> threads;
    for (unsigned seed = 0; seed < 4; ++seed) {
        threads.emplace_back([&, seed] {
            std::mt19937 random(seed);
            std::vector<std::byte> page(kPage);
            for (int i = 0; i < 2000; ++i) {
                const std::uint64_t index = random() % kReadPages;
                const bool hole = index >= 100 && index < 150;
                static_cast<void>(source.ready(index * kPage, kPage));
                const bool prepared = source.prepare(index * kPage, kPage).ok();
                const bool read = source.read(index * kPage, page).ok();
                const bool right = hole ? all_zero(page) : page == bytes_at(index * kPage, kPage);
                wrong += prepared && read && right ? 0 : 1;
            }
        });
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    EXPECT_EQ(wrong, 0);
}

INSTANTIATE_TEST_SUITE_P(Settings, SourceFile,
                         ::testing::Values(Setting{TemporaryFile::disk(), FileMode::mapped},
                                           Setting{TemporaryFile::disk(), FileMode::pread},
                                           Setting{"/dev/shm", FileMode::mapped}, Setting{"/dev/shm", FileMode::pread}),
                         [](const auto& tested) {
                             return std::string(tested.param.directory == "/dev/shm" ? "Tmpfs" : "Disk") +
                                    (tested.param.mode == FileMode::mapped ? "Mapped" : "Pread");
                         });

std::string refusal_of(const std::string& path) {
    try {
        const FileSource source(path);
    } catch (const Error& error) {
        EXPECT_EQ(error.class_name(), "SourceOpenError");
        return error.what();
    }
    return "opened";
}

TEST(SourceFileOpen, RefusesWhatIsNoMemoryFileAndSaysWhy) {
    const TemporaryFile empty;
    const std::string pipe = empty.path() + ".pipe";
    ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
    EXPECT_NE(refusal_of("/nowhere/memory").find("check the path"), std::string::npos);
    EXPECT_NE(refusal_of("/").find("is a directory"), std::string::npos);
    EXPECT_NE(refusal_of("/dev/zero").find("not a regular file"), std::string::npos);
    EXPECT_NE(refusal_of(pipe).find("not a regular file"), std::string::npos);
    EXPECT_NE(refusal_of(empty.path()).find("is empty"), std::string::npos);
    EXPECT_NE(refusal_of("").find("path is empty"), std::string::npos);
    ::unlink(pipe.c_str());
}

TEST(SourceFileOpen, RefusesARamStartThatIsNoPageOrOverflows) {
    const TemporaryFile file;
    file.fill(0, kPage);
    EXPECT_THROW(FileSource(file.path(), 1), ArgumentError);
    EXPECT_THROW(FileSource(file.path(), ~std::uint64_t{0} - kPage + 1), ArgumentError);
}

TEST(SourceFileOpen, AFileReplacedUnderItsNameGoesOnBeingServed) {
    const TemporaryFile file;
    file.fill(0, kPage);
    FileSource source(file.path());
    const TemporaryFile other;
    other.resize(1);
    ASSERT_EQ(::rename(other.path().c_str(), file.path().c_str()), 0);
    std::vector<std::byte> page(kPage);
    ASSERT_TRUE(source.read(0, page).ok());
    EXPECT_EQ(page, bytes_at(0, kPage));
}

}  // namespace
}  // namespace vmthaw::source_tests
