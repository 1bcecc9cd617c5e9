#include <gtest/gtest.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include "fuse_protocol/mapping_requests.hpp"

namespace vmthaw {
namespace {

void append(std::vector<std::byte>& bytes, std::uint64_t value, std::size_t size) {
    for (std::size_t i = 0; i < size; ++i) {
        bytes.push_back(static_cast<std::byte>(value >> (8 * i)));
    }
}

// Byte by byte, not from the structures: what Linux's fs/fuse/dax.c sends.
std::vector<std::byte> remove_request(std::uint32_t count, const std::vector<RemoveMappingOne>& entries) {
    std::vector<std::byte> bytes;
    append(bytes, count, 4);
    for (const RemoveMappingOne& one : entries) {
        append(bytes, one.window_offset, 8);
        append(bytes, one.length_bytes, 8);
    }
    return bytes;
}

TEST(MappingRequests, ASetupIsReadFieldByField) {
    std::vector<std::byte> bytes;
    append(bytes, ~std::uint64_t{0}, 8);
    append(bytes, 0x200000, 8);
    append(bytes, 0x400000, 8);
    append(bytes, 3, 8);
    append(bytes, 0x8000000000, 8);
    SetupMappingIn in;
    ASSERT_EQ(parse_setup_mapping(bytes, in).error, 0);
    EXPECT_EQ(in.handle, ~std::uint64_t{0});
    EXPECT_EQ(in.file_offset, 0x200000U);
    EXPECT_EQ(in.length_bytes, 0x400000U);
    EXPECT_EQ(in.flags, kSetupMappingRead | kSetupMappingWrite);
    EXPECT_EQ(in.window_offset, 0x8000000000U);
    bytes.push_back(std::byte{0});
    EXPECT_EQ(parse_setup_mapping(bytes, in).error, 0) << "a longer request of a newer protocol";
}

TEST(MappingRequests, AShortSetupNamesItsLength) {
    const std::vector<std::byte> bytes(39);
    SetupMappingIn in;
    const ParseOutcome outcome = parse_setup_mapping(bytes, in);
    EXPECT_EQ(outcome.error, EINVAL);
    EXPECT_EQ(outcome.field, std::string_view("length"));
}

// The ancestor read 8 bytes before the entries: every real request was misparsed.
TEST(MappingRequests, SeedFaultEightByteRemoveHeader) {
    const std::vector<std::byte> bytes = remove_request(2, {{0x200000, 0x200000}, {0xABCDEF0000, 0x4000}});
    ASSERT_EQ(bytes.size(), 4U + 32U);
    RemoveMappingEntries entries;
    ASSERT_EQ(parse_remove_mapping(bytes, entries).error, 0);
    ASSERT_EQ(entries.size(), 2U);
    EXPECT_EQ(entries.at(0).window_offset, 0x200000U);
    EXPECT_EQ(entries.at(0).length_bytes, 0x200000U);
    EXPECT_EQ(entries.at(1).window_offset, 0xABCDEF0000U);
    EXPECT_EQ(entries.at(1).length_bytes, 0x4000U);
}

struct BadRemove {
    std::uint32_t count;
    std::size_t bytes;
    const char* field;
};

TEST(MappingRequests, ARemoveThatCannotBeRightNamesTheField) {
    for (const BadRemove& bad :
         {BadRemove{0, 0, "length"}, BadRemove{0, 3, "length"}, BadRemove{1, 4, "entries"}, BadRemove{1, 19, "entries"},
          BadRemove{2, 35, "entries"}, BadRemove{257, 4 + 257 * 16, "count"}, BadRemove{0xFFFFFFFF, 4, "count"},
          BadRemove{0xFFFFFFFF, 8192, "count"}, BadRemove{0x10000001, 20, "count"}}) {
        std::vector<std::byte> bytes = remove_request(bad.count, {});
        bytes.resize(bad.bytes);
        RemoveMappingEntries entries;
        const ParseOutcome outcome = parse_remove_mapping(bytes, entries);
        EXPECT_EQ(outcome.error, EINVAL) << bad.count << " in " << bad.bytes;
        EXPECT_EQ(outcome.field, std::string_view(bad.field)) << bad.count << " in " << bad.bytes;
        EXPECT_EQ(entries.size(), 0U);
    }
}

TEST(MappingRequests, APageOfEntriesIsTheMostOfTheClientsPage) {
    RemoveMappingEntries entries;
    const std::vector<std::byte> most = remove_request(256, std::vector<RemoveMappingOne>(256));
    EXPECT_EQ(parse_remove_mapping(most, entries).error, 0);
    EXPECT_EQ(entries.size(), 256U);
    const std::vector<std::byte> large = remove_request(4096, std::vector<RemoveMappingOne>(4096));
    EXPECT_EQ(parse_remove_mapping(large, entries).error, EINVAL);
    EXPECT_EQ(parse_remove_mapping(large, entries, 65536).error, 0);
    EXPECT_EQ(entries.size(), 4096U);
    EXPECT_EQ(parse_remove_mapping(remove_request(0, {}), entries).error, 0);
    EXPECT_EQ(entries.size(), 0U);
}

}  // namespace
}  // namespace vmthaw
