// Which layer an error names when several are broken: the one that has the page.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cerrno>
#include <memory>
#include <string>
#include <vector>

#include "allocation_counter.hpp"
#include "base/error.hpp"
#include "compressed_support.hpp"
#include "pager_support.hpp"
#include "source/cached/cached_source.hpp"
#include "source/compressed/compressed_source.hpp"
#include "source/file/file_source.hpp"
#include "source/file/sparse_diff_source.hpp"
#include "source/layered/layered_source.hpp"
#include "source_support.hpp"

namespace vmthaw::source_tests {
namespace {

Uuid build_of(std::uint8_t number) {
    Uuid uuid;
    uuid.bytes.fill(static_cast<std::byte>(number));
    return uuid;
}

// Looks whole until its mapping is copied from, as a file does that was cut a moment ago; then it says what is wrong.
class CutBuild final : public PageSource {
public:
    CutBuild(std::uint64_t pages, int errno_value, std::string name)
        : memory_(Mapping::map(pages * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, "mmap")),
          errno_value_(errno_value),
          name_(std::move(name)) {}
    [[nodiscard]] std::uint64_t size() const noexcept override { return memory_.size(); }
    [[nodiscard]] bool covers(std::uint64_t offset, std::uint64_t bytes) const noexcept override {
        return offset <= size() && bytes <= size() - offset;
    }
    [[nodiscard]] Extent extent_at(std::uint64_t offset, std::uint64_t limit) const noexcept override {
        return {offset, limit, ExtentKind::data};
    }
    [[nodiscard]] ReadResult read(std::uint64_t /*offset*/, std::span<std::byte> /*out*/) noexcept override {
        return still_whole();
    }
    [[nodiscard]] const std::byte* mapped(std::uint64_t offset, std::uint64_t /*bytes*/) const noexcept override {
        return memory_.data() + offset;
    }
    [[nodiscard]] bool ready(std::uint64_t /*offset*/, std::uint64_t /*bytes*/) noexcept override { return true; }
    [[nodiscard]] ReadResult whole_lately(std::uint64_t /*offset*/, std::uint64_t /*now_ns*/) const noexcept override {
        return {};
    }
    [[nodiscard]] ReadResult still_whole() const noexcept override {
        return {.status = ReadStatus::io_error, .errno_value = errno_value_};
    }
    [[nodiscard]] bool is_closed() const noexcept override { return false; }
    [[nodiscard]] std::vector<Extent> extents() const override { return {{0, size(), ExtentKind::data}}; }
    [[nodiscard]] std::string description() const override { return name_; }
    [[nodiscard]] std::string remedy(const ReadResult& /*result*/) const override { return "mend " + name_; }

private:
    Mapping memory_;
    int errno_value_;
    std::string name_;
};

// Pages 0 to 3 of the first build, 4 to 7 of the second, which keeps them in reverse order of pairs.
LayeredHeader two_builds() {
    LayeredHeader header;
    header.size = 8 * kPage;
    header.uuids = {build_of(1), build_of(2)};
    header.mappings = {{0, 4 * kPage, 0, 0}, {4 * kPage, 2 * kPage, 2 * kPage, 1}, {6 * kPage, 2 * kPage, 0, 1}};
    return header;
}

std::string text_of_read(PageSource& source, std::uint64_t offset, std::uint64_t size) {
    std::vector<std::byte> out(size);
    try {
        throw_read_error(source, offset, size, source.read(offset, out));
    } catch (const Error& error) {
        return error.what();
    }
}

void expect_says(const std::string& text, const std::vector<std::string>& parts,
                 const std::vector<std::string>& others) {
    for (const std::string& part : parts) {
        EXPECT_NE(text.find(part), std::string::npos) << part << " is not in: " << text;
    }
    for (const std::string& other : others) {
        EXPECT_EQ(text.find(other), std::string::npos) << other << " is in: " << text;
    }
}

TEST(NamedLayer, ACopyThatTheKernelRefusesIsTheFaultOfTheBuildThatHasThePageThoughOthersWereCutToo) {
    VMTHAW_NEEDS_USERFAULTFD();
    for (const std::uint64_t page : {1U, 5U, 7U}) {
        const auto layers = std::make_shared<LayeredSource>(
            two_builds(), LayeredSource::Builds{{build_of(1), std::make_shared<CutBuild>(4, EIO, "first")},
                                                {build_of(2), std::make_shared<CutBuild>(4, EREMOTEIO, "second")}});
        const auto source = std::make_shared<SparseDiffSource>(layers, std::vector<SparseDiff>{});
        pager_tests::Guest guest(8);
        PagerConfig config = pager_tests::quick_config();
        config.retries = 0;
        config.fill_mode = FillMode::block;  // the neighbours belong to both
        config.failure_policy = FailurePolicy::poison;
        const auto session = guest.serve(source, config);
        EXPECT_NE(::madvise(guest.page(page), kPage, MADV_POPULATE_READ), 0) << "it was read";
        EXPECT_TRUE(pager_tests::eventually([&] { return !session->failures().empty(); }));
        const bool is_first = page < 4;
        const std::uint64_t storage = page < 4 ? page : page < 6 ? page - 2 : page - 6;
        expect_says(
            session->failures().at(0),
            {is_first ? "Input/output" : "Remote I/O", is_first ? "(first)" : "(second)",
             is_first ? "mend first" : "mend second", "offset " + hex(page * kPage), "at " + hex(storage * kPage)},
            {is_first ? "second" : "first"});
        session->drain(1'000'000);
        EXPECT_TRUE(session->wait_closed(std::chrono::seconds(20)));
    }
}

class NamedFile : public ::testing::Test {
protected:
    NamedFile() {
        for (const TemporaryFile* file : {&first_, &second_}) {
            file->fill(0, 4 * kPage);
        }
    }
    std::shared_ptr<LayeredSource> layers() {
        return std::make_shared<LayeredSource>(
            two_builds(), LayeredSource::Builds{{build_of(1), std::make_shared<FileSource>(first_.path())},
                                                {build_of(2), std::make_shared<FileSource>(second_.path())}});
    }
    TemporaryFile first_;
    TemporaryFile second_;
};

TEST_F(NamedFile, OfTwoBuildsThatWereCutTheOneThatHasThePageIsNamedWithItsSize) {
    const auto source = layers();
    first_.resize(kPage + 1);
    second_.resize(3 * kPage + 2);
    expect_says(text_of_read(*source, 7 * kPage, kPage), {second_.path() + " was cut: it has 12290 of", "at 0x1000 of"},
                {first_.path()});
    expect_says(text_of_read(*source, 0, kPage), {first_.path() + " was cut: it has 4097 of"}, {second_.path()});
    EXPECT_EQ(source->whole_at(0).got_bytes, kPage + 1);
    EXPECT_EQ(source->whole_at(7 * kPage).got_bytes, 3 * kPage + 2);
    EXPECT_EQ(source->whole_at(8 * kPage).status, ReadStatus::out_of_range);
}

TEST_F(NamedFile, ARangeThatIsWholeUntilItsSecondBuildSaysWhereItFailed) {
    const auto source = layers();
    second_.resize(3 * kPage);
    expect_says(text_of_read(*source, 2 * kPage, 4 * kPage),
                {"16384 bytes at offset 0x2000 (failed at 0x4000)", "at 0x2000 of build", second_.path() + " was cut"},
                {first_.path()});
    const ReadResult prepared = source->prepare(2 * kPage, 6 * kPage);
    EXPECT_EQ(prepared.failed_at, 4 * kPage);
    EXPECT_TRUE(source->whole_at(3 * kPage).ok());
}

TEST_F(NamedFile, OfDiffsThatWereCutTheOneThatHasThePageIsNamedAndSoIsWhatLiesBelowThem) {
    TemporaryFile old_diff;
    TemporaryFile new_diff;
    old_diff.resize(8 * kPage);
    old_diff.fill(kPage, kPage);
    new_diff.resize(8 * kPage);
    new_diff.fill(5 * kPage, kPage);
    SparseDiffSource source(layers(), {{old_diff.path(), {}}, {new_diff.path(), {}}});
    for (const TemporaryFile* file : {&first_, &second_, &old_diff, &new_diff}) {
        file->resize(100);
    }
    const std::vector<const TemporaryFile*> owners{&first_,  &old_diff, &first_,  &first_,
                                                   &second_, &new_diff, &second_, &second_};
    for (std::uint64_t page = 0; page < owners.size(); ++page) {
        std::vector<std::string> others;
        for (const TemporaryFile* file : {&first_, &second_, &old_diff, &new_diff}) {
            if (file != owners[page]) {
                others.push_back(file->path());
            }
        }
        expect_says(text_of_read(source, page * kPage, kPage),
                    {owners[page]->path() + " was cut: it has 100 of", "offset " + hex(page * kPage) + " of"}, others);
    }
    first_.fill(0, 4 * kPage);
    EXPECT_TRUE(source.whole_at(3 * kPage).ok());
    expect_says(text_of_read(source, 0, 8 * kPage), {"(failed at 0x1000)", old_diff.path() + " was cut"},
                {new_diff.path(), second_.path()});
    const std::uint64_t before = allocations_of_this_thread();
    EXPECT_FALSE(source.whole_at(5 * kPage).ok());
    EXPECT_EQ(allocations_of_this_thread() - before, 0U) << "asked on the fault path";
}

TEST_F(NamedFile, ACacheNamesItsChunkAndTheLayerInItThatFailed) {
    TemporaryFile diff;
    diff.resize(8 * kPage);
    diff.fill(3 * kPage, kPage);
    const auto below = std::make_shared<SparseDiffSource>(layers(), std::vector<SparseDiff>{{diff.path(), {}}});
    CachedSource source(below, {.chunk_bytes = 4 * kPage, .memory_bytes = 8 * kPage, .disk = {}});
    diff.resize(5 * kPage);
    // Page 1 is not the diff's, but comes with page 3.
    expect_says(text_of_read(source, kPage, kPage),
                {"4096 bytes at offset 0x1000 (failed at 0x3000) of cache over file:" + diff.path(),
                 "in its chunk from 0x0 to 0x4000", diff.path() + " was cut: it has 20480 of the 32768"},
                {first_.path(), second_.path() + " was"});
    std::vector<std::byte> out(kPage);
    EXPECT_TRUE(source.read(5 * kPage, out).ok()) << "nothing of its chunk was cut";
    second_.resize(7);
    EXPECT_TRUE(source.read(5 * kPage, out).ok()) << "its chunk is held";
    EXPECT_EQ(source.whole_at(5 * kPage).got_bytes, 7U);
    EXPECT_EQ(source.whole_at(3 * kPage).got_bytes, 5 * kPage);
}

TEST(NamedFileAlone, ACacheOverOneFileNamesTheFileAndTheChunk) {
    TemporaryFile file;
    file.fill(0, 6 * kPage);
    CachedSource source(std::make_shared<FileSource>(file.path(), 16 * kPage),
                        {.chunk_bytes = 4 * kPage, .memory_bytes = 8 * kPage, .disk = {}});
    std::vector<std::byte> out(kPage);
    ASSERT_TRUE(source.read(16 * kPage, out).ok());
    file.resize(5 * kPage);
    expect_says(text_of_read(source, 18 * kPage, 4 * kPage),
                {"got 8192 of 16384 bytes at offset 0x12000 (failed at 0x14000)", "cache over file:" + file.path(),
                 "in its chunk from 0x14000 to 0x16000", file.path() + " was cut: it has 20480 of the 24576"},
                {});
}

TEST(NamedFileAlone, ACompressedFileThatWasCutSaysSoAndWhichChunkWasAskedFor) {
    for (const ChunkCodec codec : {ChunkCodec::zstd, ChunkCodec::lz4}) {
        const PackedMemory memory({.codec = codec, .chunk_bytes = 4 * kPage, .level = {}, .threads = 1}, 16 * kPage);
        CompressedSource source(memory.path());
        std::vector<std::byte> out(4 * kPage);
        ASSERT_TRUE(source.read(0, out).ok());
        const Chunk chunk = source.index()[1];
        const UniqueFd fd = memory.open();
        check_errno(::ftruncate(fd.get(), static_cast<off_t>(chunk.position + 1)), "ftruncate");
        const std::string text = text_of_read(source, 2 * kPage, 8 * kPage);
        expect_says(text,
                    {"at offset 0x2000 (failed at 0x4000) of compressed:" + memory.path() + ", chunk 1",
                     "at " + hex(chunk.position) + " of the file",
                     memory.path() + " was cut: it has " + std::to_string(chunk.position + 1) + " of the"},
                    {"chunk 0", "chunk 2"});
        EXPECT_EQ(source.prepare(3 * kPage, 8 * kPage).failed_at, 4 * kPage);
    }
}

}  // namespace
}  // namespace vmthaw::source_tests
