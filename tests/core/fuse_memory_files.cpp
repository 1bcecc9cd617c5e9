#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <tuple>

#include "fuse_client.hpp"

// Bytes and attributes of a MemoryFs' files, in pages and, after a DAX mapping, in a memfd.
namespace vmthaw {
namespace {

class MemoryFsFiles : public MemoryFsTest, public ::testing::WithParamInterface<bool> {
protected:
    MemoryFsFiles() {
        std::tie(node, handle) = client.create(root, "file");
        if (GetParam()) {
            EXPECT_EQ(fs->dax_map(node, kFuseNoHandle, 0, 4096, kDaxRead, lease), 0);
        }
    }
    ~MemoryFsFiles() override {
        if (GetParam()) {
            EXPECT_EQ(fs->dax_unmap(lease), 0);
        }
    }
    int allocate(std::uint64_t offset, std::uint64_t length, std::uint32_t mode = 0) {
        return client.ask(FuseOpcode::fallocate, node, FuseFallocateIn{handle, offset, length, mode, 0}).error;
    }
    int resize(std::uint64_t size) {
        FuseSetattrIn change;
        change.valid = kFattrSize;
        change.size = size;
        return client.ask(FuseOpcode::setattr, node, change).error;
    }
    Answer seek(std::uint64_t offset, std::uint32_t whence) {
        return client.ask(FuseOpcode::lseek, node, FuseLseekIn{handle, offset, whence, 0});
    }
    std::uint64_t node = 0;
    std::uint64_t handle = 0;
    Lease lease;
};

INSTANTIATE_TEST_SUITE_P(InPagesAndInAMemfd, MemoryFsFiles, ::testing::Bool());

TEST_P(MemoryFsFiles, ReadBackWhatWasWrittenAndZerosBetween) {
    EXPECT_EQ(client.write(node, handle, 5000, "far").as<FuseWriteOut>().size, 3U);
    EXPECT_EQ(client.write(node, handle, 2, "near").error, 0);
    const std::string all = client.read(node, handle, 0, 100000).text();
    EXPECT_EQ(all.size(), 5003U);
    EXPECT_EQ(all.substr(0, 7), std::string("\0\0near\0", 7));
    EXPECT_EQ(all.substr(4999), std::string("\0far", 4));
    EXPECT_EQ(client.read(node, handle, 5001, 100).text(), "ar");
    EXPECT_EQ(client.read(node, handle, 5003, 100).body.size(), 0U);
}

TEST_P(MemoryFsFiles, ShowZerosWhereAFileWasCutAndGrewAgain) {
    client.write(node, handle, 0, std::string(10000, 'x'));
    EXPECT_EQ(resize(100), 0);
    EXPECT_EQ(resize(9000), 0);
    const std::string all = client.read(node, handle, 0, 10000).text();
    EXPECT_EQ(all, std::string(100, 'x') + std::string(8900, '\0'));
}

TEST_P(MemoryFsFiles, CostNothingForATebibyteOfHole) {
    EXPECT_EQ(resize(1ULL << 40U), 0);
    EXPECT_EQ(client.write(node, handle, (1ULL << 40U) - 1, "!").error, 0);
    EXPECT_EQ(client.getattr(node).size, 1ULL << 40U);
    EXPECT_EQ(fs->used_bytes(), 4096U);
    EXPECT_EQ(client.getattr(node).blocks, 8U);
    EXPECT_EQ(seek(0, SEEK_DATA).as<FuseLseekOut>().offset, (1ULL << 40U) - 4096);
    EXPECT_EQ(seek(0, SEEK_HOLE).as<FuseLseekOut>().offset, 0U);
}

TEST_P(MemoryFsFiles, FindDataAndHolesByPages) {
    client.write(node, handle, 8192, std::string(4096, 'd'));
    EXPECT_EQ(resize(20000), 0);
    EXPECT_EQ(seek(0, SEEK_DATA).as<FuseLseekOut>().offset, 8192U);
    EXPECT_EQ(seek(9000, SEEK_DATA).as<FuseLseekOut>().offset, 9000U);
    EXPECT_EQ(seek(9000, SEEK_HOLE).as<FuseLseekOut>().offset, 12288U);
    EXPECT_EQ(seek(12288, SEEK_DATA).error, ENXIO);
    EXPECT_EQ(seek(12288, SEEK_HOLE).as<FuseLseekOut>().offset, 12288U);
    EXPECT_EQ(seek(20000, SEEK_HOLE).error, ENXIO);
    EXPECT_EQ(seek(0, SEEK_SET).error, EINVAL);
    client.write(node, handle, 12288, std::string(20000 - 12288, 'd'));
    EXPECT_EQ(seek(8192, SEEK_HOLE).as<FuseLseekOut>().offset, 20000U);
}

TEST_P(MemoryFsFiles, AllocateAndPunch) {
    EXPECT_EQ(allocate(0, 10000), 0);
    EXPECT_EQ(client.getattr(node).size, 10000U);
    EXPECT_EQ(fs->used_bytes(), 12288U);
    EXPECT_EQ(allocate(12288, 4096, FALLOC_FL_KEEP_SIZE), 0);
    EXPECT_EQ(client.getattr(node).size, 10000U);
    EXPECT_EQ(fs->used_bytes(), 16384U);
    client.write(node, handle, 0, std::string(10000, 'x'));
    EXPECT_EQ(allocate(100, 8092, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE), 0);
    EXPECT_EQ(fs->used_bytes(), 12288U);
    const std::string all = client.read(node, handle, 0, 10000).text();
    EXPECT_EQ(all, std::string(100, 'x') + std::string(8092, '\0') + std::string(1808, 'x'));
    EXPECT_EQ(allocate(9000, 3000, FALLOC_FL_ZERO_RANGE), 0);
    EXPECT_EQ(client.read(node, handle, 0, 20000).text().substr(8192), std::string(808, 'x') + std::string(3000, '\0'));
    EXPECT_EQ(allocate(0, 10, FALLOC_FL_PUNCH_HOLE), EOPNOTSUPP);
    EXPECT_EQ(allocate(0, 10, FALLOC_FL_COLLAPSE_RANGE), EOPNOTSUPP);
}

TEST_P(MemoryFsFiles, AreWholeOrNotWrittenWhenTheCapacityEnds) {
    EXPECT_EQ(allocate(0, 60U << 20U), 0);
    EXPECT_EQ(client.write(node, handle, 60U << 20U, std::string(1U << 20U, 'x')).error, 0);
    EXPECT_EQ(allocate(61U << 20U, 4U << 20U), ENOSPC);
    EXPECT_EQ(allocate(61U << 20U, (3U << 20U) - 4096), 0);
    const auto [other, writing] = client.create(root, "other");
    EXPECT_EQ(client.write(other, writing, 0, std::string(4097, 'x')).error, ENOSPC);
    EXPECT_EQ(client.getattr(other).size, 0U);
    EXPECT_EQ(client.write(other, writing, 0, std::string(4096, 'x')).error, 0);
    EXPECT_EQ(client.ask(FuseOpcode::statfs, root).as<FuseStatfs>().bfree, 0U);
    EXPECT_EQ(client.write(node, handle, 0, std::string(4096, 'y')).error, 0);
    EXPECT_EQ(resize(0), 0);
    EXPECT_EQ(fs->used_bytes(), 4096U);
}

TEST_P(MemoryFsFiles, CopyWithinAndBetween) {
    client.write(node, handle, 0, "0123456789");
    const auto copy = [&](std::uint64_t from, std::uint64_t to, std::uint64_t length, FuseOpcode opcode) {
        return client.ask(opcode, node, FuseCopyFileRangeIn{handle, from, node, handle, to, length, 0});
    };
    EXPECT_EQ(copy(0, 20, 5, FuseOpcode::copy_file_range).as<FuseWriteOut>().size, 5U);
    EXPECT_EQ(copy(8, 30, UINT64_MAX / 4, FuseOpcode::copy_file_range_64).as<FuseCopyFileRangeOut>().bytes_copied, 17U);
    EXPECT_EQ(client.read(node, handle, 20, 5).text(), "01234");
    EXPECT_EQ(copy(0, 5, 10, FuseOpcode::copy_file_range).error, EINVAL);
    EXPECT_EQ(copy(1000, 0, 10, FuseOpcode::copy_file_range).as<FuseWriteOut>().size, 0U);
}

TEST_P(MemoryFsFiles, EqualAnArrayOfBytesThroughRandomChanges) {
    std::mt19937_64 random(GetParam() ? 1 : 2);
    std::string expected;
    constexpr std::uint64_t span = 40000;
    for (int step = 0; step < 3000; ++step) {
        const std::uint64_t offset = random() % span;
        const std::uint64_t length = random() % 9000 + 1;
        switch (random() % 6) {
            case 0:
            case 1: {
                const std::string data(length, static_cast<char>('a' + step % 26));
                ASSERT_EQ(client.write(node, handle, offset, data).error, 0);
                expected.resize(std::max<std::size_t>(expected.size(), offset + length));
                expected.replace(offset, length, data);
                break;
            }
            case 2:
                ASSERT_EQ(resize(offset), 0);
                expected.resize(offset);
                break;
            case 3:
                ASSERT_EQ(allocate(offset, length, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE), 0);
                for (std::uint64_t at = offset; at < std::min<std::uint64_t>(offset + length, expected.size()); ++at) {
                    expected[at] = '\0';
                }
                break;
            case 4:
                ASSERT_EQ(allocate(offset, length, step % 2 == 0 ? 0 : FALLOC_FL_KEEP_SIZE), 0);
                if (step % 2 == 0) {
                    expected.resize(std::max<std::size_t>(expected.size(), offset + length));
                }
                break;
            default:
                ASSERT_EQ(client.read(node, handle, offset, static_cast<std::uint32_t>(length)).text(),
                          offset < expected.size() ? expected.substr(offset, length) : "");
        }
    }
    EXPECT_EQ(client.read(node, handle, 0, 1U << 20U).text(), expected);
}

TEST_P(MemoryFsFiles, KeepTheirBytesWhenAGuestMapsThem) {
    client.write(node, handle, 4090, "across a page");
    Lease second;
    ASSERT_EQ(fs->dax_map(node, handle, 4096, 2U << 20U, kDaxRead | kDaxWrite, second), 0);
    EXPECT_EQ(second.offset_bytes, 4096U);
    EXPECT_EQ(second.length_bytes, 2U << 20U);
    std::string seen(7, '?');
    EXPECT_EQ(::pread(second.fd, seen.data(), 7, 4096), 7);
    EXPECT_EQ(seen, " a page");
    EXPECT_EQ(::pwrite(second.fd, "A GUEST", 7, 4097), 7);
    EXPECT_EQ(client.read(node, handle, 4090, 100).text(), "across A GUES");
    EXPECT_EQ(client.ask_name(FuseOpcode::unlink, root, "file").error, 0);
    EXPECT_EQ(client.release(node, handle), 0);
    client.forget(node);
    EXPECT_EQ(fs->files(), 2U);
    EXPECT_EQ(fs->dax_unmap(second), 0);
    EXPECT_EQ(fs->dax_unmap(second), EINVAL);
    EXPECT_EQ(fs->leases(), GetParam() ? 1U : 0U);
}

using MemoryFsAttributes = MemoryFsTest;

TEST_F(MemoryFsAttributes, LeaseOnlyWhatIsARegularFileOfTheClients) {
    Lease lease;
    EXPECT_EQ(fs->dax_map(root, kFuseNoHandle, 0, 4096, kDaxRead, lease), EISDIR);
    EXPECT_EQ(fs->dax_map(99, kFuseNoHandle, 0, 4096, kDaxRead, lease), ESTALE);
    const auto [node, handle] = client.create(root, "file", 0644, O_RDONLY);
    EXPECT_EQ(fs->dax_map(node, handle, 0, 4096, kDaxWrite, lease), EBADF);
    EXPECT_EQ(client.write(node, handle, 0, "x").error, EBADF);
    EXPECT_EQ(fs->leases(), 0U);
}

TEST_F(MemoryFsAttributes, CountWhatAGuestMayWriteOnceItIsMapped) {
    constexpr std::uint64_t mapped = 2U << 20U;
    const auto [node, handle] = client.create(root, "sparse");
    FuseSetattrIn change;
    change.valid = kFattrSize;
    change.size = 128U << 20U;
    ASSERT_EQ(client.ask(FuseOpcode::setattr, node, change).error, 0);
    const auto map = [&](std::uint64_t offset, std::uint64_t length, std::uint32_t prot) {
        Lease lease;
        const int error = fs->dax_map(node, kFuseNoHandle, offset, length, prot, lease);
        EXPECT_TRUE(error != 0 || fs->dax_unmap(lease) == 0);
        return error;
    };
    EXPECT_EQ(map(0, mapped, kDaxRead), 0);
    EXPECT_EQ(fs->used_bytes(), 0U);
    for (int turn = 0; turn < 2; ++turn) {
        EXPECT_EQ(map(mapped, mapped, kDaxRead | kDaxWrite), 0);
        EXPECT_EQ(fs->used_bytes(), mapped) << "taken once";
    }
    EXPECT_EQ(map(0, 128U << 20U, kDaxRead | kDaxWrite), ENOSPC) << "the capacity is 64 MiB";
    EXPECT_EQ(fs->used_bytes(), mapped);
    EXPECT_EQ(map((128U << 20U) - 4096, mapped, kDaxRead | kDaxWrite), 0);
    EXPECT_EQ(fs->used_bytes(), mapped + 4096) << "what lies behind the end is nothing";
    EXPECT_EQ(map(256U << 20U, mapped, kDaxRead | kDaxWrite), 0);
    EXPECT_EQ(fs->used_bytes(), mapped + 4096);
    EXPECT_EQ(client.release(node, handle), 0);
}

TEST_F(MemoryFsAttributes, DropSetIdBitsWhereChownAndTheClientSaySo) {
    const auto [node, handle] = client.create(root, "program", 06755);
    FuseSetattrIn change;
    change.valid = kFattrUid;
    change.uid = 5;
    EXPECT_EQ(client.ask(FuseOpcode::setattr, node, change).as<FuseAttrOut>().attr.mode, S_IFREG | 0755U);
    change.valid = kFattrMode;
    change.mode = 06745;
    client.ask(FuseOpcode::setattr, node, change);
    client.write(node, handle, 0, "x");
    EXPECT_EQ(client.getattr(node).mode, S_IFREG | 06745U);
    client.write(node, handle, 0, "x", kFuseWriteKillSuidgid);
    EXPECT_EQ(client.getattr(node).mode, S_IFREG | 02745U);
    const std::uint64_t directory = client.mkdir(root, "dir");
    change.mode = 02755;
    client.ask(FuseOpcode::setattr, directory, change);
    change.valid = kFattrGid;
    EXPECT_EQ(client.ask(FuseOpcode::setattr, directory, change).as<FuseAttrOut>().attr.mode, S_IFDIR | 02755U);
}

TEST_F(MemoryFsAttributes, SetTimesAndStampChanges) {
    const auto [node, handle] = client.create(root, "file");
    FuseSetattrIn change;
    change.valid = kFattrAtime | kFattrMtime;
    change.atime = 10;
    change.atimensec = 11;
    change.mtime = 20;
    change.mtimensec = 999'999'999;
    const FuseAttr set = client.ask(FuseOpcode::setattr, node, change).as<FuseAttrOut>().attr;
    EXPECT_EQ(set.atime, 10U);
    EXPECT_EQ(set.atimensec, 11U);
    EXPECT_EQ(set.mtime, 20U);
    EXPECT_EQ(set.mtimensec, 999'999'999U);
    EXPECT_GT(set.ctime, 1'000'000U);
    client.write(node, handle, 0, "x");
    EXPECT_GT(client.getattr(node).mtime, 1'000'000U);
    change.valid = kFattrMtime | kFattrMtimeNow;
    EXPECT_GT(client.ask(FuseOpcode::setattr, node, change).as<FuseAttrOut>().attr.mtime, 1'000'000U);
    const auto statx = client.ask(FuseOpcode::statx, node, FuseStatxIn{0, 0, 0, 0, 0xfff}).as<FuseStatxOut>();
    EXPECT_EQ(statx.stat.mask, 0xfffU);
    EXPECT_GT(statx.stat.btime.tv_sec, 1'000'000);
    EXPECT_EQ(statx.stat.size, 1U);
}

TEST_F(MemoryFsAttributes, AppendAtTheEndAsItIsAndCutOnOpen) {
    const auto [node, handle] = client.create(root, "log", 0644, O_WRONLY | O_APPEND);
    client.write(node, handle, 0, "one ");
    client.write(node, handle, 0, "two");
    const std::uint64_t reading = client.ask(FuseOpcode::open, node, FuseOpenIn{O_RDONLY, 0}).as<FuseOpenOut>().fh;
    EXPECT_EQ(client.read(node, reading, 0, 100).text(), "one two");
    EXPECT_EQ(client.ask(FuseOpcode::open, node, FuseOpenIn{O_RDWR | O_TRUNC, 0}).error, 0);
    EXPECT_EQ(client.getattr(node).size, 0U);
    EXPECT_EQ(client.ask(FuseOpcode::open, root, FuseOpenIn{}).error, EISDIR);
}

TEST_F(MemoryFsAttributes, KeepExtendedAttributes) {
    const std::uint64_t node = client.mkdir(root, "dir");
    const auto set = [&](std::string_view name, std::string_view value, std::uint32_t flags = 0) {
        Bytes body;
        append(body, FuseSetxattrIn{static_cast<std::uint32_t>(value.size()), flags, 0, 0});
        append_text(body, name);
        append_bytes(body, std::as_bytes(std::span(value)));
        return client.ask(FuseOpcode::setxattr, node, body).error;
    };
    const auto get = [&](std::string_view name, std::uint32_t size) {
        return client.ask(FuseOpcode::getxattr, node, FuseGetxattrIn{size, 0}, name);
    };
    EXPECT_EQ(set("user.one", "first"), 0);
    EXPECT_EQ(set("user.one", "x", XATTR_CREATE), EEXIST);
    EXPECT_EQ(set("user.two", "x", XATTR_REPLACE), ENODATA);
    EXPECT_EQ(set("user.two", ""), 0);
    EXPECT_EQ(get("user.one", 100).text(), "first");
    EXPECT_EQ(get("user.one", 0).as<FuseGetxattrOut>().size, 5U);
    EXPECT_EQ(get("user.one", 4).error, ERANGE);
    EXPECT_EQ(get("user.two", 10).body.size(), 0U);
    EXPECT_EQ(get("user.none", 10).error, ENODATA);
    EXPECT_EQ(client.ask(FuseOpcode::listxattr, node, FuseGetxattrIn{100, 0}).text(),
              std::string("user.one\0user.two\0", 18));
    EXPECT_EQ(fs->used_bytes(), 21U);
    EXPECT_EQ(client.ask_name(FuseOpcode::removexattr, node, "user.one").error, 0);
    EXPECT_EQ(client.ask_name(FuseOpcode::removexattr, node, "user.one").error, ENODATA);
    EXPECT_EQ(set("system.posix_acl_access", "x"), EOPNOTSUPP);
    EXPECT_EQ(client.ask_name(FuseOpcode::rmdir, root, "dir").error, 0);
    client.forget(node);
    EXPECT_EQ(fs->used_bytes(), 0U);
}

TEST_F(MemoryFsAttributes, ReadTheShortSetxattrOfAClientThatKnowsNoOther) {
    client.begin(~kFuseSetxattrExt);
    const std::uint64_t node = client.mkdir(root, "dir");
    Bytes body;
    append(body, FuseGetxattrIn{5, 0});
    append_text(body, "user.x");
    append_bytes(body, std::as_bytes(std::span(std::string_view("value"))));
    EXPECT_EQ(client.ask(FuseOpcode::setxattr, node, body).error, 0);
    EXPECT_EQ(client.ask(FuseOpcode::getxattr, node, FuseGetxattrIn{9, 0}, "user.x").text(), "value");
}

}  // namespace
}  // namespace vmthaw
