#include <gtest/gtest.h>
#include <linux/fuse.h>

#include <cerrno>
#include <string>

#include "fuse_client.hpp"
#include "fuse_protocol/dirent_packer.hpp"
#include "fuse_protocol/reply_writer.hpp"
#include "fuse_protocol/request_reader.hpp"

namespace vmthaw {
namespace {

// The distribution's header knows most of what ours says.
TEST(FuseProtocol, HasTheSizesOfTheKernelsHeader) {
    EXPECT_EQ(sizeof(FuseInHeader), sizeof(fuse_in_header));
    EXPECT_EQ(sizeof(FuseOutHeader), sizeof(fuse_out_header));
    EXPECT_EQ(sizeof(FuseAttr), sizeof(fuse_attr));
    EXPECT_EQ(sizeof(FuseAttrOut), sizeof(fuse_attr_out));
    EXPECT_EQ(sizeof(FuseEntryOut), sizeof(fuse_entry_out));
    EXPECT_EQ(sizeof(FuseSetattrIn), sizeof(fuse_setattr_in));
    EXPECT_EQ(sizeof(FuseInitIn), sizeof(fuse_init_in));
    EXPECT_EQ(sizeof(FuseInitOut), sizeof(fuse_init_out));
    EXPECT_EQ(sizeof(FuseStatfs), sizeof(fuse_statfs_out));
    EXPECT_EQ(sizeof(FuseCopyFileRangeIn), sizeof(fuse_copy_file_range_in));
    EXPECT_EQ(sizeof(FuseDirentPlus), sizeof(fuse_direntplus));
}

TEST(FuseProtocol, HasTheFieldsWhereTheKernelHasThem) {
    EXPECT_EQ(offsetof(FuseInHeader, nodeid), offsetof(fuse_in_header, nodeid));
    EXPECT_EQ(offsetof(FuseInHeader, pid), offsetof(fuse_in_header, pid));
    EXPECT_EQ(offsetof(FuseInitOut, map_alignment), offsetof(fuse_init_out, map_alignment));
    EXPECT_EQ(offsetof(FuseInitOut, map_alignment), 30U);
    EXPECT_EQ(offsetof(FuseInitOut, flags2), offsetof(fuse_init_out, flags2));
    EXPECT_EQ(offsetof(FuseSetattrIn, mode), offsetof(fuse_setattr_in, mode));
    EXPECT_EQ(offsetof(FuseSetattrIn, gid), offsetof(fuse_setattr_in, gid));
    EXPECT_EQ(offsetof(FuseAttr, flags), offsetof(fuse_attr, flags));
    EXPECT_EQ(offsetof(FuseWriteIn, lock_owner), offsetof(fuse_write_in, lock_owner));
    EXPECT_EQ(offsetof(FuseStatfs, namelen), offsetof(fuse_kstatfs, namelen));
    EXPECT_EQ(kFuseMapAlignment, static_cast<std::uint64_t>(FUSE_MAP_ALIGNMENT));
    EXPECT_EQ(kFuseInitExt, static_cast<std::uint64_t>(FUSE_INIT_EXT));
    EXPECT_EQ(kFuseSetxattrExt, static_cast<std::uint64_t>(FUSE_SETXATTR_EXT));
    EXPECT_EQ(kFattrKillSuidgid, static_cast<std::uint32_t>(FATTR_KILL_SUIDGID));
}

TEST(RequestReader, RefusesWhatIsShorterThanAHeaderAndAnswersNobody) {
    const Bytes request = FuseClient::frame(FuseOpcode::getattr, 1, {});
    for (std::size_t size = 0; size < sizeof(FuseInHeader); ++size) {
        const RequestReader reader{std::span(request).first(size)};
        EXPECT_FALSE(reader.has_header());
        EXPECT_EQ(reader.error(), EINVAL);
        EXPECT_STREQ(reader.field(), "header");
    }
}

TEST(RequestReader, RefusesALengthThatIsNotThatOfTheBytes) {
    for (const std::uint32_t claimed : {0U, 39U, 41U, 0xffffffffU}) {
        Bytes request = FuseClient::frame(FuseOpcode::getattr, 1, {});
        std::memcpy(request.data(), &claimed, sizeof claimed);
        const RequestReader reader(request);
        EXPECT_TRUE(reader.has_header());
        EXPECT_EQ(reader.error(), EINVAL);
        EXPECT_STREQ(reader.field(), "len");
    }
}

TEST(RequestReader, LeavesExtensionsOutAndRefusesThoseThatReachPastTheEnd) {
    Bytes body;
    append_text(body, "name");
    body.resize(body.size() + 8);
    Bytes request = FuseClient::frame(FuseOpcode::lookup, 1, body);
    const std::uint16_t units = 1;
    std::memcpy(request.data() + 36, &units, sizeof units);
    RequestReader reader(request);
    EXPECT_EQ(reader.take_name("name"), "name");
    EXPECT_TRUE(reader.rest().empty());
    EXPECT_EQ(reader.error(), 0);

    const std::uint16_t too_many = 2;
    std::memcpy(request.data() + 36, &too_many, sizeof too_many);
    const RequestReader refusing(request);
    EXPECT_EQ(refusing.error(), EINVAL);
    EXPECT_STREQ(refusing.field(), "total_extlen");
}

TEST(RequestReader, KeepsTheFirstErrorAndGivesNothingAfterIt) {
    Bytes body;
    append_text(body, "a/b");
    append_text(body, "fine");
    const Bytes request = FuseClient::frame(FuseOpcode::rename, 1, body);
    RequestReader reader(request);
    EXPECT_EQ(reader.take_name("oldname"), "");
    EXPECT_EQ(reader.take_name("newname"), "");
    EXPECT_EQ(reader.take<FuseOpenIn>("open").flags, 0U);
    EXPECT_EQ(reader.error(), EINVAL);
    EXPECT_STREQ(reader.field(), "oldname");
}

TEST(RequestReader, TakesNamesOfUpTo255BytesAndNoDots) {
    const struct {
        std::string name;
        int error;
    } cases[] = {{std::string(255, 'n'), 0},
                 {std::string(256, 'n'), ENAMETOOLONG},
                 {std::string(4096, 'n'), ENAMETOOLONG},
                 {"", ENOENT},
                 {".", EINVAL},
                 {"..", EINVAL},
                 {"...", 0},
                 {"/", EINVAL},
                 {"a/", EINVAL}};
    for (const auto& [name, error] : cases) {
        Bytes body;
        append_text(body, name);
        const Bytes request = FuseClient::frame(FuseOpcode::mkdir, 1, body);
        RequestReader reader(request);
        EXPECT_EQ(reader.take_name("name"), error == 0 ? name : "");
        EXPECT_EQ(reader.error(), error) << name;
    }
}

TEST(RequestReader, RefusesANameWithoutItsNul) {
    Bytes body;
    append_text(body, "name");
    body.pop_back();
    const Bytes request = FuseClient::frame(FuseOpcode::lookup, 1, body);
    RequestReader reader(request);
    EXPECT_EQ(reader.take_name("name"), "");
    EXPECT_EQ(reader.error(), EINVAL);
}

TEST(ReplyWriter, WritesNothingPastItsBytes) {
    Bytes space(64, std::byte{0xee});
    for (std::size_t size = 0; size <= 40; ++size) {
        std::ranges::fill(space, std::byte{0xee});
        ReplyWriter writer{std::span(space).first(size), 5};
        writer.put(FuseOpenOut{1, 2, 3});
        const std::size_t written = writer.finish(0);
        EXPECT_EQ(written, size < 16 ? 0U : size < 32 ? 16U : 32U);
        for (std::size_t at = size; at < space.size(); ++at) {
            ASSERT_EQ(space[at], std::byte{0xee});
        }
        if (written == 16) {
            EXPECT_EQ(FuseClient::read_reply(std::span(space).first(written)).error, EINVAL);
        }
    }
}

TEST(DirentPacker, PadsWithZerosAndStopsAtTheEnd) {
    Bytes space(24 + 8 + 24 + 8, std::byte{0xee});
    DirentPacker packer(space);
    EXPECT_TRUE(packer.add("abc", {7, 1, 0, 4}));
    EXPECT_EQ(packer.used_bytes(), 32U);
    EXPECT_EQ(space[24 + 3], std::byte{0});
    EXPECT_EQ(space[31], std::byte{0});
    EXPECT_FALSE(packer.add("nine char", {8, 2, 0, 4}));
    EXPECT_FALSE(packer.add(std::string(256, 'n'), {8, 2, 0, 4}));
    EXPECT_FALSE(packer.add("", {8, 2, 0, 4}));
    EXPECT_EQ(packer.used_bytes(), 32U);
    EXPECT_EQ(space[32], std::byte{0xee});
    EXPECT_TRUE(packer.add("12345678", {8, 2, 0, 4}));
    EXPECT_FALSE(packer.add("x", {9, 3, 0, 4}));
}

}  // namespace
}  // namespace vmthaw
