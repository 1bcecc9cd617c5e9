#include <gtest/gtest.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <limits>
#include <string>
#include <tuple>

#include "fuse_client.hpp"

// Requests of a client that lies: the right errno, nothing lost, nothing leaked.
namespace vmthaw {
namespace {

constexpr std::uint64_t kHuge = std::numeric_limits<std::uint64_t>::max();
constexpr std::array kNamed = {FuseOpcode::lookup, FuseOpcode::unlink, FuseOpcode::rmdir};

class FuseBadInput : public MemoryFsTest {
protected:
    FuseBadInput() {
        std::tie(node, handle) = client.create(root, "file");
        client.write(node, handle, 0, "content");
        held = fs->held_nodes();
        files = fs->files();
    }
    ~FuseBadInput() override {
        EXPECT_EQ(client.read(node, handle, 0, 100).text(), "content");
        EXPECT_EQ(fs->held_nodes(), held);
        EXPECT_EQ(fs->open_handles(), 1U);
        EXPECT_EQ(fs->files(), files);
        dispatcher.reset();
        EXPECT_EQ(fs->held_nodes(), 0U);
        EXPECT_EQ(fs->open_handles(), 0U);
    }
    Answer write_claiming(std::uint64_t offset, std::uint32_t size) {
        Bytes body;
        append(body, FuseWriteIn{handle, offset, size, 0, 0, 0, 0});
        body.resize(body.size() + 10);
        return client.ask(FuseOpcode::write, node, body);
    }

    std::uint64_t node = 0;
    std::uint64_t handle = 0;
    std::uint64_t held = 0;
    std::uint64_t files = 0;
};

TEST_F(FuseBadInput, EveryRequestIsRefusedWhenItsStructureIsCut) {
    const struct {
        FuseOpcode opcode;
        std::size_t bytes;
    } structures[] = {{FuseOpcode::getattr, 16},     {FuseOpcode::setattr, 88},  {FuseOpcode::mknod, 16},
                      {FuseOpcode::mkdir, 8},        {FuseOpcode::rename, 8},    {FuseOpcode::rename2, 16},
                      {FuseOpcode::link, 8},         {FuseOpcode::open, 8},      {FuseOpcode::read, 40},
                      {FuseOpcode::write, 40},       {FuseOpcode::release, 24},  {FuseOpcode::fsync, 16},
                      {FuseOpcode::setxattr, 16},    {FuseOpcode::getxattr, 8},  {FuseOpcode::listxattr, 8},
                      {FuseOpcode::flush, 24},       {FuseOpcode::opendir, 8},   {FuseOpcode::readdir, 40},
                      {FuseOpcode::releasedir, 24},  {FuseOpcode::fsyncdir, 16}, {FuseOpcode::access, 8},
                      {FuseOpcode::create, 16},      {FuseOpcode::interrupt, 8}, {FuseOpcode::fallocate, 32},
                      {FuseOpcode::readdirplus, 40}, {FuseOpcode::lseek, 24},    {FuseOpcode::copy_file_range, 56},
                      {FuseOpcode::tmpfile, 16},     {FuseOpcode::statx, 24},    {FuseOpcode::copy_file_range_64, 56}};
    for (const auto& [opcode, bytes] : structures) {
        for (const std::size_t size : {std::size_t{0}, bytes / 2, bytes - 1}) {
            EXPECT_EQ(client.ask(opcode, node, Bytes(size)).error, EINVAL) << static_cast<int>(opcode) << ' ' << size;
        }
    }
    EXPECT_EQ(client.ask(FuseOpcode::init, 0, Bytes(7)).error, EINVAL);
}

TEST_F(FuseBadInput, ALengthThatIsNotThatOfTheBytesReachesNoFileSystem) {
    Bytes request = FuseClient::frame(FuseOpcode::mkdir, root, [] {
        Bytes body;
        append(body, FuseMkdirIn{0755, 0});
        append_text(body, "dir");
        return body;
    }());
    for (const std::uint32_t claimed : {0U, 40U, static_cast<std::uint32_t>(request.size() + 1), 0xffffffffU}) {
        std::memcpy(request.data(), &claimed, sizeof claimed);
        EXPECT_EQ(client.send(request).error, EINVAL);
    }
}

TEST_F(FuseBadInput, ANodeThatWasNeverGivenIsStale) {
    for (const std::uint64_t stranger : {std::uint64_t{0}, std::uint64_t{77}, kHuge}) {
        EXPECT_EQ(client.ask(FuseOpcode::getattr, stranger, FuseGetattrIn{}).error, ESTALE);
        EXPECT_EQ(client.ask(FuseOpcode::setattr, stranger, FuseSetattrIn{}).error, ESTALE);
        EXPECT_EQ(client.ask_name(FuseOpcode::lookup, stranger, "file").error, ESTALE);
        EXPECT_EQ(client.ask_name(FuseOpcode::lookup, stranger, "..").error, ESTALE);
        EXPECT_EQ(client.ask(FuseOpcode::mkdir, stranger, FuseMkdirIn{}, "x").error, ESTALE);
        EXPECT_EQ(client.ask(FuseOpcode::open, stranger, FuseOpenIn{}).error, ESTALE);
        EXPECT_EQ(client.ask(FuseOpcode::opendir, stranger, FuseOpenIn{}).error, ESTALE);
        EXPECT_EQ(client.ask(FuseOpcode::readlink, stranger).error, ESTALE);
        EXPECT_EQ(client.ask(FuseOpcode::link, root, FuseLinkIn{stranger}, "x").error, ESTALE);
        EXPECT_EQ(client.rename(root, "file", stranger, "x"), ESTALE);
        EXPECT_EQ(client.ask_name(FuseOpcode::removexattr, stranger, "user.x").error, ESTALE);
        EXPECT_EQ(client.ask(FuseOpcode::tmpfile, stranger, FuseCreateIn{}).error, ESTALE);
        EXPECT_EQ(client.ask(FuseOpcode::statx, stranger, FuseStatxIn{}).error, ESTALE);
        client.forget(stranger, kHuge);
    }
}

TEST_F(FuseBadInput, AHandleThatWasNeverGivenOrBelongsToAnotherIsBad) {
    const std::uint64_t directory = client.ask(FuseOpcode::opendir, root, FuseOpenIn{}).as<FuseOpenOut>().fh;
    for (const std::uint64_t wrong : {std::uint64_t{0}, handle + 100, kHuge, directory}) {
        EXPECT_EQ(client.read(node, wrong, 0, 10).error, EBADF);
        EXPECT_EQ(client.write(node, wrong, 0, "x").error, EBADF);
        EXPECT_EQ(client.release(node, wrong), EBADF);
        EXPECT_EQ(client.ask(FuseOpcode::fallocate, node, FuseFallocateIn{wrong, 0, 1, 0, 0}).error, EBADF);
    }
    EXPECT_EQ(client.read(root, handle, 0, 10).error, EBADF);
    EXPECT_EQ(client.ask(FuseOpcode::readdir, root, FuseReadIn{handle, 0, 100, 0, 0, 0, 0}).error, EBADF);
    EXPECT_EQ(client.ask(FuseOpcode::releasedir, root, FuseReleaseIn{handle, 0, 0, 0}).error, EBADF);
    EXPECT_EQ(client.ask(FuseOpcode::releasedir, root, FuseReleaseIn{directory, 0, 0, 0}).error, 0);
    EXPECT_EQ(client.ask(FuseOpcode::releasedir, root, FuseReleaseIn{directory, 0, 0, 0}).error, EBADF);
}

TEST_F(FuseBadInput, NamesWithASlashOrANulOrOf4096BytesAreRefused) {
    const struct {
        std::string name;
        int error;
    } names[] = {{"a/b", EINVAL},
                 {"/", EINVAL},
                 {std::string("a\0b", 3), EINVAL},
                 {std::string(256, 'n'), ENAMETOOLONG},
                 {std::string(4096, 'n'), ENAMETOOLONG},
                 {"", ENOENT}};
    for (const auto& [name, error] : names) {
        for (const FuseOpcode opcode : kNamed) {
            EXPECT_EQ(client.ask_name(opcode, root, name).error, error) << name;
        }
        Bytes body;
        append(body, FuseMkdirIn{0755, 0});
        append_text(body, name);
        EXPECT_EQ(client.ask(FuseOpcode::mkdir, root, body).error, error) << name;
        body.clear();
        append(body, FuseRenameIn{root});
        append_text(body, "file");
        append_text(body, name);
        EXPECT_EQ(client.ask(FuseOpcode::rename, root, body).error, error) << name;
    }
    for (const std::string name : {".", ".."}) {
        EXPECT_EQ(client.ask_name(FuseOpcode::unlink, root, name).error, EINVAL);
        EXPECT_EQ(client.ask(FuseOpcode::mkdir, root, FuseMkdirIn{}, name).error, EINVAL);
        EXPECT_EQ(client.rename(root, "file", root, name), EINVAL);
    }
    EXPECT_EQ(client.ask_name(FuseOpcode::lookup, root, "fil").error, ENOENT);
}

TEST_F(FuseBadInput, ANameWithoutItsNulIsRefused) {
    const Bytes name = {std::byte{'f'}, std::byte{'i'}, std::byte{'l'}, std::byte{'e'}};
    for (const FuseOpcode opcode : kNamed) {
        EXPECT_EQ(client.ask(opcode, root, name).error, EINVAL);
    }
}

TEST_F(FuseBadInput, OffsetsAndLengthsNear2To64AreRefusedBeforeTheyWrap) {
    for (const std::uint64_t offset : {kHuge, kHuge - 5, std::uint64_t{1} << 63U}) {
        EXPECT_EQ(client.read(node, handle, offset, 10).error, EINVAL);
        EXPECT_EQ(write_claiming(offset, 10).error, EINVAL);
        EXPECT_EQ(client.ask(FuseOpcode::fallocate, node, FuseFallocateIn{handle, offset, 10, 0, 0}).error, EINVAL);
        EXPECT_EQ(client.ask(FuseOpcode::fallocate, node, FuseFallocateIn{handle, 0, offset, 0, 0}).error, EINVAL);
        EXPECT_EQ(client.ask(FuseOpcode::lseek, node, FuseLseekIn{handle, offset, 3, 0}).error, ENXIO);
        FuseSetattrIn change;
        change.valid = kFattrSize;
        change.size = offset;
        EXPECT_EQ(client.ask(FuseOpcode::setattr, node, change).error, EINVAL);
        for (const bool of_source : {true, false}) {
            const FuseCopyFileRangeIn copy{handle, of_source ? offset : 0, node, handle, of_source ? 0 : offset, 5, 0};
            EXPECT_EQ(client.ask(FuseOpcode::copy_file_range, node, copy).error, EINVAL);
        }
    }
    constexpr std::uint64_t last = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    EXPECT_EQ(write_claiming(last - 5, 10).error, EFBIG);
    EXPECT_EQ(client.ask(FuseOpcode::fallocate, node, FuseFallocateIn{handle, last, 10, 0, 0}).error, EFBIG);
    EXPECT_EQ(client.ask(FuseOpcode::fallocate, node, FuseFallocateIn{handle, 0, 0, 0, 0}).error, EINVAL);
    EXPECT_EQ(client.ask(FuseOpcode::fallocate, node, FuseFallocateIn{handle, 0, last, 0, 0}).error, ENOSPC);
    EXPECT_EQ(client.read(node, handle, last - 100, 100).body.size(), 0U);
}

TEST_F(FuseBadInput, AWriteWhoseSizeIsNotThatOfItsDataIsRefused) {
    for (const std::uint32_t size : {0U, 9U, 11U, 0xffffffffU}) {
        EXPECT_EQ(write_claiming(0, size).error, EINVAL) << size;
    }
}

TEST_F(FuseBadInput, AReadOfMoreThanAReplyHoldsIsRefused) {
    EXPECT_EQ(client.read(node, handle, 0, 0xffffffffU).error, EINVAL);
    EXPECT_EQ(client.read(node, handle, 0, (1U << 20U) + 4096 * 17).error, EINVAL);
    EXPECT_EQ(client.read(node, handle, 0, 1U << 20U).body.size(), 7U);
}

TEST_F(FuseBadInput, UnknownFlagsAreRefused) {
    for (unsigned bit = 3; bit < 32; ++bit) {
        EXPECT_EQ(client.rename(root, "file", root, "other", 1U << bit), EINVAL);
    }
    EXPECT_EQ(client.rename(root, "file", root, "other", kRenameNoReplace | kRenameExchange), EINVAL);
    FuseSetattrIn change;
    change.valid = 1U << 12U;
    EXPECT_EQ(client.ask(FuseOpcode::setattr, node, change).error, EINVAL);
    change.valid = kFattrMtime;
    change.mtimensec = 1'000'000'000;
    EXPECT_EQ(client.ask(FuseOpcode::setattr, node, change).error, EINVAL);
    const FuseCopyFileRangeIn copy{handle, 0, node, handle, 100, 5, 1};
    EXPECT_EQ(client.ask(FuseOpcode::copy_file_range, node, copy).error, EINVAL);
    EXPECT_EQ(client.ask(FuseOpcode::fallocate, node, FuseFallocateIn{handle, 0, 1, 0x80, 0}).error, EOPNOTSUPP);
    EXPECT_EQ(client.ask(FuseOpcode::setxattr, node, FuseSetxattrIn{0, 4, 0, 0}, "user.x").error, EINVAL);
    EXPECT_EQ(client.ask(FuseOpcode::access, node, FuseAccessIn{8, 0}).error, EINVAL);
    EXPECT_EQ(client.ask(FuseOpcode::mknod, root, FuseMknodIn{0170000, 0, 0, 0}, "odd").error, EINVAL);
    EXPECT_EQ(client.ask(FuseOpcode::mknod, root, FuseMknodIn{S_IFDIR, 0, 0, 0}, "odd").error, EPERM);
}

TEST_F(FuseBadInput, ABatchThatClaimsMoreThanIsThereForgetsNothing) {
    for (const std::uint32_t count : {2U, 0x10000000U, 0xffffffffU}) {
        Bytes body;
        append(body, FuseBatchForgetIn{count, 0});
        append(body, FuseForgetOne{node, 1});
        EXPECT_FALSE(client.ask(FuseOpcode::batch_forget, 0, body).replied);
        EXPECT_EQ(client.ask(FuseOpcode::getattr, node, FuseGetattrIn{}).error, 0);
    }
}

TEST_F(FuseBadInput, AnAttributesValueOfMoreThan64KiBOrThanIsThereIsRefused) {
    EXPECT_EQ(client.ask(FuseOpcode::setxattr, node, FuseSetxattrIn{65537, 0, 0, 0}, "user.x").error, E2BIG);
    EXPECT_EQ(client.ask(FuseOpcode::setxattr, node, FuseSetxattrIn{65536, 0, 0, 0}, "user.x").error, EINVAL);
    EXPECT_EQ(client.ask(FuseOpcode::setxattr, node, FuseSetxattrIn{0xffffffffU, 0, 0, 0}, "user.x").error, E2BIG);
    EXPECT_EQ(client.ask(FuseOpcode::getxattr, node, FuseGetxattrIn{}, std::string(256, 'x')).error, ENAMETOOLONG);
}

TEST_F(FuseBadInput, ForgettingMoreThanWasGivenTakesAllOfItAndNoMore) {
    const std::uint64_t other = client.mkdir(root, "dir");
    client.forget(other, kHuge);
    EXPECT_EQ(client.ask(FuseOpcode::getattr, other, FuseGetattrIn{}).error, ESTALE);
    client.forget(other, 1);
    client.forget(root, kHuge);
    EXPECT_EQ(client.getattr(root).nlink, 3U);
    EXPECT_EQ(client.ask_name(FuseOpcode::rmdir, root, "dir").error, 0);
}

}  // namespace
}  // namespace vmthaw
