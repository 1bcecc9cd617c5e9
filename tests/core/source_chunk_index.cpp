// The indexes of compressed files: every field of them wrong once, and what they say when they are right.
#include <gtest/gtest.h>

#include <cstring>
#include <optional>
#include <ranges>

#include "compressed_support.hpp"
#include "source/xxh64.hpp"

namespace vmthaw::source_tests {
namespace {

std::uint64_t hash_of(const std::string& text) { return xxh64(std::as_bytes(std::span(text))); }

TEST(SourceXxh64, GivesThePublishedValues) {
    EXPECT_EQ(hash_of(""), 0xEF46DB3751D8E999U);
    EXPECT_EQ(hash_of("a"), 0xD24EC4F1A98C6E5BU);
    EXPECT_EQ(hash_of("abc"), 0x44BC2CF5AD770999U);
    EXPECT_EQ(hash_of("Nobody inspects the spammish repetition"), 0xFBCEA83C8A378BF1U);
}

struct Table {
    std::uint32_t skippable_magic = kZstdSkippableMagic;
    std::optional<std::uint32_t> frame_bytes = std::nullopt;
    std::optional<std::uint32_t> count = std::nullopt;
    std::byte descriptor{0};
    std::uint32_t magic = kZstdSeekableMagic;
    std::vector<std::pair<std::uint32_t, std::uint32_t>> entries{{100, 8192}, {50, 8192}, {30, 4096}};
    std::size_t bytes_before = 180;

    [[nodiscard]] Bytes written() const {
        Bytes bytes(bytes_before);
        put_value(bytes, skippable_magic);
        put_value(bytes, frame_bytes.value_or(static_cast<std::uint32_t>(entries.size() * 8 + 9)));
        for (const auto& [packed, size] : entries) {
            put_value(bytes, packed);
            put_value(bytes, size);
        }
        put_value(bytes, count.value_or(static_cast<std::uint32_t>(entries.size())));
        put_value(bytes, descriptor);
        put_value(bytes, magic);
        return bytes;
    }
};

TEST(SourceZstdSeekTable, SaysWhereEachChunkIs) {
    const ChunkIndex index = index_of(Table{}.written(), false);
    ASSERT_EQ(index.count(), 3U);
    EXPECT_EQ(index.size(), 20480U);
    EXPECT_EQ(index[1].position, 100U);
    EXPECT_EQ(index[2].start, 16384U);
    EXPECT_EQ(index.find(16383), 1U);
    EXPECT_EQ(index.find(16384), 2U);
}

TEST(SourceZstdSeekTable, FindsChunksOfDifferentSizes) {
    const ChunkIndex index = index_of(Table{.entries = {{60, 4096}, {60, 12288}, {0, 0}, {60, 5000}}}.written(), false);
    ASSERT_EQ(index.count(), 3U) << "a frame without bytes is no chunk";
    EXPECT_EQ(index.find(4095), 0U);
    EXPECT_EQ(index.find(4096), 1U);
    EXPECT_EQ(index.find(16383), 1U);
    EXPECT_EQ(index.find(21383), 2U);
}

TEST(SourceZstdSeekTable, NamesTheFieldThatIsWrong) {
    const auto field = [](const Table& table) { return field_of(table.written(), false); };
    EXPECT_EQ(field({}), "");
    EXPECT_EQ(field({.descriptor = std::byte{3}}), "") << "unused bits";
    EXPECT_EQ(field({.magic = 0}), "seek_table.magic");
    EXPECT_EQ(field({.descriptor = std::byte{4}}), "seek_table.descriptor");
    EXPECT_EQ(field({.count = 0xFFFFFFFF}), "seek_table.entries");
    EXPECT_EQ(field({.count = 2}), "seek_table.header");
    EXPECT_EQ(field({.skippable_magic = 0x184D2A5D}), "seek_table.header");
    EXPECT_EQ(field({.frame_bytes = 32}), "seek_table.size");
    EXPECT_EQ(field({.entries = {{100, 8192}, {81, 8192}}}), "seek_table.entries[1].compressed_size");
    EXPECT_EQ(field({.entries = {{100, 8192}, {79, 8192}}}), "seek_table.entries");
    EXPECT_EQ(field({.entries = {{100, 8192}, {0xFFFFFFFF, 8192}}}), "seek_table.entries[1].compressed_size");
    EXPECT_EQ(field({.entries = {{180, (4U << 20U) + 1}}}), "chunks[0]");
    EXPECT_EQ(field({.entries = {{100, 8192}, {0, 8192}, {80, 8192}}}), "chunks[1]");
    EXPECT_EQ(field({.entries = {{100, 8192}, {50, 5000}, {30, 8192}}}), "chunks[1]");
    EXPECT_EQ(field({.entries = {{180, 0}}}), "chunks");
    EXPECT_EQ(field({.entries = {}, .bytes_before = 0}), "chunks");
    EXPECT_EQ(field_of(Bytes(16), false), "seek_table.footer");
    Bytes cut = Table{}.written();
    cut.pop_back();
    EXPECT_EQ(field_of(cut, false), "seek_table.magic");
}

// The frames of a small memory as our own writer writes them.
Bytes lz4_frames() {
    const PackedMemory memory({.codec = ChunkCodec::lz4, .chunk_bytes = kPage, .level = {}}, 3 * kPage + 100);
    const UniqueFd fd = memory.open();
    Bytes bytes(memory.result().packed_bytes);
    check_errno_long(::pread(fd.get(), bytes.data(), bytes.size(), 0), "pread");
    return bytes;
}

TEST(SourceLz4Scan, SaysWhereEachChunkIs) {
    Bytes bytes = lz4_frames();
    const ChunkIndex index = index_of(bytes, true);
    ASSERT_EQ(index.count(), 4U);
    EXPECT_EQ(index.size(), 3 * kPage + 100);
    EXPECT_EQ(index[3].bytes, 100U);
    EXPECT_EQ(index[3].position + index[3].packed_bytes, bytes.size());
    put_value(bytes, std::uint32_t{0x184D2A51});
    put_value(bytes, std::uint32_t{3});
    bytes.resize(bytes.size() + 3);
    EXPECT_EQ(index_of(bytes, true).count(), 4U) << "a skippable frame is passed by";
}

TEST(SourceLz4Scan, NamesTheFieldThatIsWrong) {
    const Bytes good = lz4_frames();
    const auto field = [&good](std::size_t position, std::uint32_t value) {
        Bytes bytes = good;
        std::memcpy(bytes.data() + position, &value, sizeof value);
        return field_of(bytes, true);
    };
    EXPECT_EQ(field(0, 0x184C2102), "frames[0].magic") << "a legacy frame";
    EXPECT_EQ(field(0, 0x184D2205), "frames[0].magic");
    EXPECT_EQ(field(0, 0x184D2A50), "frames[0].skippable");
    EXPECT_EQ(field(4, 0), "frames[0].header");
    EXPECT_EQ(field(6, 77), "frames[0].header") << "the header's checksum";
    EXPECT_EQ(field(15, 0x7FFFFFFF), "frames[0].block");
    EXPECT_EQ(field(15, 60000), "frames[0].block") << "over the end of the file";
    for (std::size_t size = 1; size < good.size(); ++size) {
        const Bytes cut(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size));
        const ChunkIndex index = index_of(good, true);
        const bool between = std::ranges::any_of(std::views::iota(std::size_t{1}, index.count()),
                                                 [&](std::size_t chunk) { return index[chunk].position == size; });
        EXPECT_EQ(field_of(cut, true).empty(), between) << size;
    }
    EXPECT_EQ(field_of({}, true), "chunks");
}

TEST(SourceLz4Scan, WantsTheSizeOfTheContents) {
    Bytes bytes;
    put_value(bytes, std::uint32_t{0x184D2204});
    for (const unsigned byte : {0x60U, 0x40U, 0x82U}) {  // no content size, 64 KiB blocks, and the checksum of these
        bytes.push_back(static_cast<std::byte>(byte));
    }
    put_value(bytes, std::uint32_t{0});
    EXPECT_EQ(field_of(bytes, true), "frames[0].content_size");
}

}  // namespace
}  // namespace vmthaw::source_tests
