#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "base/unique_fd.hpp"
#include "filesystem/host_calls.hpp"
#include "filesystem/passthrough_fs.hpp"
#include "kernel/fuse.hpp"

namespace vmthaw {
namespace {

class HostDirectory {
public:
    HostDirectory() { EXPECT_NE(::mkdtemp(path_.data()), nullptr); }
    ~HostDirectory() { EXPECT_EQ(std::system(("rm -rf " + path_).c_str()), 0); }
    HostDirectory(const HostDirectory&) = delete;
    HostDirectory& operator=(const HostDirectory&) = delete;
    [[nodiscard]] const std::string& path() const { return path_; }
    void touch(const std::string& name) const {
        const UniqueFd file(::open((path_ + "/" + name).c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0644));
        EXPECT_TRUE(file);
    }

private:
    std::string path_ = "/tmp/vmt-host-XXXXXX";
};

constexpr FuseCaller kRootCaller{};

class PassthroughFsNodes : public ::testing::Test {
protected:
    void SetUp() override {
        UniqueFd found;
        if (host_open_beneath(AT_FDCWD, ".", O_PATH, 0, found) == ENOSYS) {
            GTEST_SKIP() << "needs openat2, which user-mode emulation has not";
        }
    }
};

TEST_F(PassthroughFsNodes, LookUpsAreCountedExactly) {
    const HostDirectory host;
    host.touch("a");
    ASSERT_EQ(::link((host.path() + "/a").c_str(), (host.path() + "/b").c_str()), 0);
    PassthroughFs fs(host.path());
    NodeEntry a;
    NodeEntry b;
    NodeEntry again;
    ASSERT_EQ(fs.lookup(kRootCaller, kFuseRootNode, "a", a), 0);
    ASSERT_EQ(fs.lookup(kRootCaller, kFuseRootNode, "b", b), 0);
    ASSERT_EQ(fs.lookup(kRootCaller, kFuseRootNode, "a", again), 0);
    EXPECT_EQ(a.node, b.node);  // one inode, one node
    EXPECT_EQ(a.node, again.node);
    EXPECT_EQ(fs.held_nodes(), 1U);
    fs.forget(a.node, 2);
    EXPECT_EQ(fs.held_nodes(), 1U);
    fs.forget(a.node, 1);
    EXPECT_EQ(fs.held_nodes(), 0U);
    NodeAttributes attributes;
    EXPECT_EQ(fs.getattr(kRootCaller, a.node, kFuseNoHandle, attributes), ESTALE);
    NodeEntry later;
    ASSERT_EQ(fs.lookup(kRootCaller, kFuseRootNode, "a", later), 0);
    EXPECT_NE(later.node, a.node);  // ids are not given twice
    fs.forget(later.node, UINT64_MAX);
    EXPECT_EQ(fs.held_nodes(), 0U);
    fs.forget(kFuseRootNode, UINT64_MAX);
    EXPECT_EQ(fs.getattr(kRootCaller, kFuseRootNode, kFuseNoHandle, attributes), 0);
}

TEST_F(PassthroughFsNodes, NamesLeadNowhereElse) {
    const HostDirectory host;
    host.touch("file");
    ASSERT_EQ(::symlink("/etc", (host.path() + "/link").c_str()), 0);
    PassthroughFs fs(host.path());
    NodeEntry entry;
    EXPECT_EQ(fs.lookup(kRootCaller, kFuseRootNode, "..", entry), EINVAL);
    ASSERT_EQ(fs.lookup(kRootCaller, kFuseRootNode, "link", entry), 0);
    EXPECT_TRUE(S_ISLNK(entry.attr.mode));
    NodeEntry below;
    EXPECT_EQ(fs.lookup(kRootCaller, entry.node, "passwd", below), ENOTDIR);
    OpenedFile opened;
    EXPECT_EQ(fs.open(kRootCaller, entry.node, {}, opened), ELOOP);
    EXPECT_EQ(fs.opendir(kRootCaller, entry.node, {}, opened), ENOTDIR);
    FuseCreateIn create;
    create.flags = O_CREAT | O_WRONLY;
    create.mode = S_IFREG | 0644;
    NodeEntry made;
    EXPECT_EQ(fs.create(kRootCaller, kFuseRootNode, "link", create, made, opened), ELOOP);
    EXPECT_EQ(fs.open_handles(), 0U);
    fs.destroy();
    EXPECT_EQ(fs.held_nodes(), 0U);
    EXPECT_EQ(fs.open_descriptors(), 1U);
}

TEST_F(PassthroughFsNodes, WhatWasNeverGivenIsRefused) {
    const HostDirectory host;
    PassthroughFs fs(host.path());
    NodeAttributes attributes;
    NodeEntry entry;
    OpenedFile opened;
    Lease lease;
    ReadAnswer answer;
    for (const std::uint64_t node : {std::uint64_t{0}, std::uint64_t{2}, UINT64_MAX}) {
        EXPECT_EQ(fs.getattr(kRootCaller, node, kFuseNoHandle, attributes), ESTALE);
        EXPECT_EQ(fs.lookup(kRootCaller, node, "x", entry), ESTALE);
        EXPECT_EQ(fs.open(kRootCaller, node, {}, opened), ESTALE);
        EXPECT_EQ(fs.dax_map(node, kFuseNoHandle, 0, 4096, kDaxRead, lease), ESTALE);
        EXPECT_EQ(fs.unlink(kRootCaller, node, "x"), ESTALE);
    }
    for (const std::uint64_t handle : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{99}}) {
        FuseReadIn read;
        read.fh = handle;
        EXPECT_EQ(fs.read(kRootCaller, kFuseRootNode, read, answer), EBADF);
        EXPECT_EQ(fs.releasedir(kRootCaller, kFuseRootNode, handle), EBADF);
        EXPECT_EQ(fs.fsync(kRootCaller, kFuseRootNode, handle, false), EBADF);
    }
    EXPECT_EQ(fs.dax_map(kFuseRootNode, kFuseNoHandle, 0, 4096, kDaxRead, lease), EISDIR);
    EXPECT_TRUE(fs.gives_regular_files());
    ASSERT_EQ(::mkfifo((host.path() + "/fifo").c_str(), 0600), 0);
    ASSERT_EQ(fs.lookup(kRootCaller, kFuseRootNode, "fifo", entry), 0);
    EXPECT_EQ(fs.dax_map(entry.node, kFuseNoHandle, 0, 4096, kDaxRead, lease), EINVAL);  // not opened, which might wait
    lease.token = 77;
    EXPECT_EQ(fs.dax_unmap(lease), EINVAL);
}

TEST_F(PassthroughFsNodes, ALeaseIsTheFile) {
    const HostDirectory host;
    host.touch("file");
    PassthroughFs fs(host.path());
    NodeEntry entry;
    ASSERT_EQ(fs.lookup(kRootCaller, kFuseRootNode, "file", entry), 0);
    Lease lease;
    ASSERT_EQ(fs.dax_map(entry.node, kFuseNoHandle, 4096, 8192, kDaxRead | kDaxWrite, lease), 0);
    EXPECT_EQ(lease.offset_bytes, 4096U);
    EXPECT_EQ(lease.length_bytes, 8192U);
    struct stat found{};
    ASSERT_EQ(::fstat(lease.fd, &found), 0);
    EXPECT_EQ(found.st_ino, entry.attr.ino);
    EXPECT_EQ(fs.leases(), 1U);
    fs.destroy();  // a lease is the session's to give back
    EXPECT_EQ(fs.leases(), 1U);
    EXPECT_EQ(fs.dax_unmap(lease), 0);
    EXPECT_EQ(fs.dax_unmap(lease), EINVAL);
    EXPECT_EQ(fs.leases(), 0U);
}

TEST_F(PassthroughFsNodes, ThreadsThatLookUpAndForgetLeaveNothing) {
    const HostDirectory host;
    constexpr int kFiles = 40;
    for (int number = 0; number < kFiles; ++number) {
        host.touch(std::to_string(number));
    }
    PassthroughFs fs(host.path(), {.most_descriptors = 16});
    std::vector<std::thread> threads;
    for (int thread = 0; thread < 4; ++thread) {
        threads.emplace_back([&, thread] {
            for (int turn = 0; turn < 1000; ++turn) {
                const std::string name = std::to_string((turn * 7 + thread) % kFiles);
                NodeEntry entry;
                const int error = fs.lookup(kRootCaller, kFuseRootNode, name, entry);
                if (error != 0) {
                    EXPECT_TRUE(error == ENFILE && !fs.evicts()) << error;
                    continue;
                }
                NodeAttributes attributes;
                EXPECT_EQ(fs.getattr(kRootCaller, entry.node, kFuseNoHandle, attributes), 0);
                EXPECT_EQ(attributes.attr.ino, entry.attr.ino);
                OpenedFile opened;
                EXPECT_EQ(fs.open(kRootCaller, entry.node, {}, opened), 0);
                FuseReleaseIn release;
                release.fh = opened.handle;
                EXPECT_EQ(fs.release(kRootCaller, entry.node, release), 0);
                fs.forget(entry.node, 1);
            }
        });
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    EXPECT_EQ(fs.held_nodes(), 0U);
    EXPECT_EQ(fs.open_handles(), 0U);
    EXPECT_EQ(fs.open_descriptors(), 1U);
}

TEST_F(PassthroughFsNodes, ANewFilesNodeIsThatFileWhoeverTakesItsName) {
    const HostDirectory host;
    PassthroughFs fs(host.path());
    const std::string name = host.path() + "/new";
    std::atomic<bool> done = false;
    std::thread thief([&] {
        while (!done) {
            host.touch("other");
            ::rename((host.path() + "/other").c_str(), name.c_str());
        }
    });
    FuseCreateIn create;
    create.flags = O_CREAT | O_EXCL | O_WRONLY;
    create.mode = S_IFREG | 0600;
    int made = 0;
    for (int turn = 0; turn < 4000; ++turn) {
        ::unlink(name.c_str());
        NodeEntry entry;
        OpenedFile opened;
        if (fs.create(kRootCaller, kFuseRootNode, "new", create, entry, opened) != 0) {
            continue;  // the thief was faster
        }
        ++made;
        NodeAttributes node;
        NodeAttributes file;
        EXPECT_EQ(fs.getattr(kRootCaller, entry.node, kFuseNoHandle, node), 0);
        EXPECT_EQ(fs.getattr(kRootCaller, entry.node, opened.handle, file), 0);
        EXPECT_EQ(node.attr.ino, file.attr.ino) << "in turn " << turn;
        EXPECT_EQ(entry.attr.ino, file.attr.ino) << "in turn " << turn;
        FuseReleaseIn release;
        release.fh = opened.handle;
        EXPECT_EQ(fs.release(kRootCaller, entry.node, release), 0);
        fs.forget(entry.node, 1);
    }
    done = true;
    thief.join();
    EXPECT_GT(made, 0);
    EXPECT_EQ(fs.held_nodes(), 0U);
}

}  // namespace
}  // namespace vmthaw
