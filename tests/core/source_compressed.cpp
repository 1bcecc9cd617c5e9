// CompressedSource over files that compress_file wrote: every byte, every kind of damage.
#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <random>
#include <stdexcept>
#include <thread>

#include "compressed_support.hpp"
#include "source/compressed/compressed_source.hpp"

namespace vmthaw::source_tests {
namespace {

constexpr std::uint64_t kChunk = 4 * kPage;

class SourceCompressed : public ::testing::TestWithParam<ChunkCodec> {
protected:
    [[nodiscard]] static CompressOptions options(std::uint64_t chunk = kChunk) {
        return {.codec = GetParam(), .chunk_bytes = chunk, .level = {}, .threads = 2};
    }
};

TEST_P(SourceCompressed, GivesTheBytesOfTheMemoryAtAnyPlace) {
    const PackedMemory memory(options(), 37 * kPage, 8 * kPage, 20 * kPage);
    CompressedSource source(memory.path(), 2 * kChunk);
    ASSERT_EQ(source.size(), memory.bytes().size());
    EXPECT_EQ(memory.result().zero_chunks, 3U);
    std::mt19937 random(5);
    for (int i = 0; i < 300; ++i) {
        const std::uint64_t offset = random() % source.size();
        std::vector<std::byte> out(random() % (source.size() - offset) + 1);
        ASSERT_TRUE(source.read(offset, out).ok());
        ASSERT_TRUE(std::ranges::equal(out, std::span(memory.bytes()).subspan(offset, out.size())));
    }
}

TEST_P(SourceCompressed, KnowsZerosAtOpenAndNeverDecompressesThem) {
    const PackedMemory memory(options(), 40 * kPage, 8 * kPage, 21 * kPage);
    CompressedSource source(memory.path());
    const std::vector<Extent> extents = source.extents();
    ASSERT_EQ(extents.size(), 3U);
    EXPECT_EQ(extents[1].offset, 8 * kPage);
    EXPECT_EQ(extents[1].size, 12 * kPage) << "the chunk that has data behind the hole is data";
    EXPECT_EQ(extents[1].kind, ExtentKind::zero);
    EXPECT_EQ(source.extent_at(10 * kPage, kPage).kind, ExtentKind::zero);
    EXPECT_TRUE(source.ready(8 * kPage, 12 * kPage));
    std::vector<std::byte> out(12 * kPage, std::byte{1});
    EXPECT_TRUE(source.read(8 * kPage, out).ok());
    EXPECT_TRUE(all_zero(out));
    EXPECT_EQ(source.cache_stats().loads, 0U);
}

TEST_P(SourceCompressed, AnswersTheFaultThreadOnlyWhenTheChunkIsHeld) {
    const PackedMemory memory(options(), 16 * kPage);
    CompressedSource source(memory.path());
    std::vector<std::byte> out(kPage);
    EXPECT_FALSE(source.read_now(5 * kPage, out));
    EXPECT_FALSE(source.ready(5 * kPage, kPage));
    EXPECT_TRUE(source.prepare(5 * kPage, kPage).ok());
    EXPECT_TRUE(source.ready(4 * kPage, kChunk));
    EXPECT_TRUE(source.read_now(6 * kPage, out));
    EXPECT_EQ(out, bytes_at(6 * kPage, kPage));
    EXPECT_FALSE(source.read_now(8 * kPage, out));
    EXPECT_EQ(source.mapped(6 * kPage, kPage), nullptr);
}

TEST_P(SourceCompressed, ServesThePageThatTheEndLiesInAndNothingBehindIt) {
    const PackedMemory memory(options(), 5 * kPage + 10);
    CompressedSource source(memory.path());
    EXPECT_TRUE(source.covers(5 * kPage, kPage));
    EXPECT_FALSE(source.covers(5 * kPage, 2 * kPage));
    std::vector<std::byte> out(kPage, std::byte{1});
    ASSERT_TRUE(source.read(5 * kPage, out).ok());
    EXPECT_TRUE(std::ranges::equal(std::span(out).first(10), bytes_at(5 * kPage, 10)));
    EXPECT_TRUE(all_zero(std::span(out).subspan(10)));
    EXPECT_EQ(source.read(6 * kPage, out).status, ReadStatus::out_of_range);
    out.resize(3 * kPage);
    EXPECT_EQ(source.read(5 * kPage, out).status, ReadStatus::out_of_range);
}

TEST_P(SourceCompressed, NamesADamagedChunkAndServesTheOthers) {
    const PackedMemory memory(options(), 32 * kPage);
    std::uint64_t position = 0;
    {
        const CompressedSource source(memory.path());
        const Chunk& chunk = source.index()[3];
        position = chunk.position + chunk.packed_bytes / 2;
    }
    memory.flip(position);
    CompressedSource source(memory.path());
    std::vector<std::byte> out(kPage);
    const ReadResult result = source.read(13 * kPage, out);
    EXPECT_EQ(result.status, ReadStatus::io_error);
    EXPECT_EQ(result.errno_value, EBADMSG);
    try {
        throw_read_error(source, 13 * kPage, kPage, result);
    } catch (const Error& error) {
        const std::string text = error.what();
        EXPECT_NE(text.find("chunk 3 (memory 0xc000 to 0x10000"), std::string::npos) << text;
        EXPECT_NE(text.find("take another copy of the file"), std::string::npos) << text;
    }
    for (std::uint64_t page = 0; page < 32; ++page) {
        EXPECT_EQ(source.read(page * kPage, out).ok(), page / 4 != 3) << page;
    }
}

TEST_P(SourceCompressed, SaysThatAFileWasCut) {
    const PackedMemory memory(options(), 32 * kPage);
    CompressedSource source(memory.path());
    const UniqueFd fd = memory.open();
    check_errno(::ftruncate(fd.get(), static_cast<off_t>(memory.result().packed_bytes / 2)), "ftruncate");
    std::vector<std::byte> out(kPage);
    EXPECT_EQ(source.read(0, out).status, ReadStatus::short_read);
    EXPECT_EQ(source.read(31 * kPage, out).status, ReadStatus::short_read);
    EXPECT_EQ(source.still_whole().status, ReadStatus::short_read);
}

TEST_P(SourceCompressed, IsClosedForGood) {
    const PackedMemory memory(options(), 8 * kPage);
    CompressedSource source(memory.path());
    std::vector<std::byte> out(kPage);
    EXPECT_TRUE(source.read(0, out).ok());
    source.close();
    source.close();
    EXPECT_EQ(source.read(0, out).status, ReadStatus::closed);
    EXPECT_EQ(source.prepare(0, kPage).status, ReadStatus::closed);
    EXPECT_EQ(source.still_whole().status, ReadStatus::closed);
    EXPECT_FALSE(source.read_now(0, out));
    EXPECT_FALSE(source.ready(0, kPage));
}

TEST_P(SourceCompressed, DecompressesAChunkOnceForManyThreads) {
    const PackedMemory memory(options(std::uint64_t{1} << 20U), 256 * kPage);
    CompressedSource source(memory.path());
    std::atomic<int> wrong{0};
    std::vector<std::thread> threads;
    for (std::uint64_t thread = 0; thread < 4; ++thread) {
        threads.emplace_back([&, thread] {
            std::vector<std::byte> out(kPage);
            for (std::uint64_t page = thread; page < 256; page += 4) {
                wrong += source.read(page * kPage, out).ok() && out == bytes_at(page * kPage, kPage) ? 0 : 1;
            }
        });
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    EXPECT_EQ(wrong, 0);
    EXPECT_EQ(source.cache_stats().loads, 1U);
}

TEST_P(SourceCompressed, LeavesWhatWasThereWhenCompressionFails) {
    const PackedMemory memory(options(), 64 * kPage);
    CompressedSource source(memory.path());
    const TemporaryFile target;
    target.fill(0, 100);
    source.close();
    EXPECT_THROW(compress_file(source, target.path(), options(), {}), StateError);
    CompressedSource again(memory.path());
    EXPECT_THROW(compress_file(again, target.path(), options(),
                               [](std::uint64_t, std::uint64_t) { throw std::runtime_error("enough"); }),
                 std::runtime_error);
    EXPECT_THROW(compress_file(again, target.path(), options(12345), {}), ArgumentError);
    EXPECT_THROW(compress_file(again, target.path(), {.codec = GetParam(), .chunk_bytes = kChunk, .level = 99}, {}),
                 ArgumentError);
}

INSTANTIATE_TEST_SUITE_P(Codecs, SourceCompressed, ::testing::Values(ChunkCodec::zstd, ChunkCodec::lz4),
                         [](const auto& codec) { return codec.param == ChunkCodec::zstd ? "zstd" : "lz4"; });

}  // namespace
}  // namespace vmthaw::source_tests
