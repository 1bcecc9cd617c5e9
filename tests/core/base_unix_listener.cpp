#include "base/unix_listener.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string>

#include "base/error.hpp"
#include "base/unix_address.hpp"
#include "descriptor_limit.hpp"

namespace vmthaw {
namespace {

UniqueFd stream_socket() { return UniqueFd(check_errno(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket")); }

class UnixListenerTest : public ::testing::Test {
protected:
    void SetUp() override {
        std::array<char, 32> name{"/tmp/vmthaw-XXXXXX"};
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        directory_ = name.data();
        path_ = directory_ + "/s";
    }
    void TearDown() override {
        ::unlink(path_.c_str());
        ::rmdir(directory_.c_str());
    }
    [[nodiscard]] static bool exists(const std::string& path) {
        struct stat found{};
        return ::lstat(path.c_str(), &found) == 0;
    }
    [[nodiscard]] static UniqueFd connect(const std::string& path) {
        UniqueFd socket = stream_socket();
        const UnixAddress address = UnixAddress::of(path);
        if (::connect(socket.get(), address.get(), address.length()) != 0) {
            socket.reset();
        }
        return socket;
    }
    static int errno_of(const std::string& path) {
        try {
            static_cast<void>(UnixListener::create(path));
        } catch (const SystemError& error) {
            return error.errno_value();
        }
        return 0;
    }

    std::string directory_;
    std::string path_;
};

// A bound socket whose server is gone.
void leave_stale_socket(const std::string& path) {
    const UniqueFd socket = stream_socket();
    const UnixAddress address = UnixAddress::of(path);
    ASSERT_EQ(::bind(socket.get(), address.get(), address.length()), 0);
}

TEST_F(UnixListenerTest, AcceptsAConnectionAndRemovesItsFile) {
    UnixListener listener = UnixListener::create(path_);
    EXPECT_EQ(listener.accept().status, AcceptStatus::nothing);
    const UniqueFd vmm = connect(path_);
    const AcceptOutcome outcome = listener.accept();
    ASSERT_EQ(outcome.status, AcceptStatus::accepted);
    EXPECT_NE(static_cast<unsigned>(::fcntl(outcome.socket.get(), F_GETFL)) & unsigned{O_NONBLOCK}, 0U);
    EXPECT_NE(static_cast<unsigned>(::fcntl(outcome.socket.get(), F_GETFD)) & unsigned{FD_CLOEXEC}, 0U);
    listener.close();
    listener.close();
    EXPECT_FALSE(exists(path_));
}

TEST_F(UnixListenerTest, HasMode0600WhateverTheUmask) {
    for (const mode_t mask : {0U, 022U, 077U, 0777U}) {
        const mode_t former = ::umask(mask);
        const UnixListener listener = UnixListener::create(path_);
        ::umask(former);
        struct stat found{};
        ASSERT_EQ(::lstat(path_.c_str(), &found), 0);
        EXPECT_EQ(found.st_mode & 07777U, 0600U) << mask;
    }
}

// The file's mode right after bind(2), before anything else could mend it: what create() builds on.
TEST_F(UnixListenerTest, BindGivesTheFileTheModeOfTheSocketItself) {
    const UniqueFd socket = stream_socket();
    ASSERT_EQ(::fchmod(socket.get(), 0600), 0);
    const UnixAddress address = UnixAddress::of(path_);
    const mode_t former = ::umask(0);
    const int bound = ::bind(socket.get(), address.get(), address.length());
    ::umask(former);
    ASSERT_EQ(bound, 0);
    struct stat found{};
    ASSERT_EQ(::lstat(path_.c_str(), &found), 0);
    EXPECT_EQ(found.st_mode & 07777U, 0600U);
}

TEST_F(UnixListenerTest, CanGiveTheFileAway) {
    if (::geteuid() != 0) {
        GTEST_SKIP() << "giving a file away needs root";
    }
    UnixListenerOptions options;
    options.owner_uid = 1234;
    options.owner_gid = 4321;
    const UnixListener listener = UnixListener::create(path_, options);
    struct stat found{};
    ASSERT_EQ(::lstat(path_.c_str(), &found), 0);
    EXPECT_EQ(found.st_uid, 1234U);
    EXPECT_EQ(found.st_gid, 4321U);
    EXPECT_EQ(found.st_mode & 07777U, 0600U);
}

TEST_F(UnixListenerTest, DoesNotStealALiveSocket) {
    const UnixListener first = UnixListener::create(path_);
    EXPECT_EQ(errno_of(path_), EADDRINUSE);
    EXPECT_TRUE(connect(path_));
}

TEST_F(UnixListenerTest, DoesNotStealALiveSocketWhoseQueueIsFull) {
    UnixListenerOptions options;
    options.backlog = 0;
    const UnixListener first = UnixListener::create(path_, options);
    const UniqueFd waiting = connect(path_);
    EXPECT_EQ(errno_of(path_), EADDRINUSE);
}

TEST_F(UnixListenerTest, ReplacesAStaleSocket) {
    leave_stale_socket(path_);
    const UnixListener listener = UnixListener::create(path_);
    EXPECT_TRUE(connect(path_));
}

TEST_F(UnixListenerTest, LeavesOtherFilesAlone) {
    const UniqueFd file(::open(path_.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    EXPECT_EQ(errno_of(path_), EEXIST);
    ASSERT_EQ(::unlink(path_.c_str()), 0);
    ASSERT_EQ(::symlink("/nowhere", path_.c_str()), 0);
    EXPECT_EQ(errno_of(path_), EEXIST);
    EXPECT_TRUE(exists(path_));
}

TEST_F(UnixListenerTest, RemovesOnlyItsOwnFile) {
    {
        const UnixListener listener = UnixListener::create(path_);
        ASSERT_EQ(::unlink(path_.c_str()), 0);
        leave_stale_socket(path_);  // somebody else's, by the same name
    }
    EXPECT_TRUE(exists(path_));
}

TEST_F(UnixListenerTest, KeepsItsFileWhenAForkedChildDropsIt) {
    UnixListener listener = UnixListener::create(path_);
    const pid_t child = ::fork();
    if (child == 0) {
        listener.close();
        ::_exit(0);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(exists(path_));
    EXPECT_TRUE(connect(path_));
}

TEST_F(UnixListenerTest, SaysThatAPathIsTooLong) {
    try {
        static_cast<void>(UnixListener::create(directory_ + "/" + std::string(120, 'x')));
        FAIL();
    } catch (const ArgumentError& error) {
        EXPECT_NE(std::string(error.what()).find("the kernel takes 107"), std::string::npos) << error.what();
    }
    EXPECT_THROW(static_cast<void>(UnixListener::create("")), ArgumentError);
    EXPECT_THROW(static_cast<void>(UnixListener::create(std::string("/tmp/a\0b", 8))), ArgumentError);
    EXPECT_EQ(errno_of("/nowhere/at/all"), ENOENT);
}

TEST_F(UnixListenerTest, CanBeAbstract) {
    const std::string name = "@vmthaw-test-" + std::to_string(::getpid());
    const UnixListener listener = UnixListener::create(name);
    EXPECT_TRUE(connect(name));
    EXPECT_EQ(listener.accept().status, AcceptStatus::accepted);
    EXPECT_EQ(errno_of(name), EADDRINUSE);
}

TEST_F(UnixListenerTest, AdoptsAListeningSocketAndLeavesItsFile) {
    {
        UniqueFd socket = stream_socket();
        const UnixAddress address = UnixAddress::of(path_);
        ASSERT_EQ(::bind(socket.get(), address.get(), address.length()), 0);
        ASSERT_EQ(::listen(socket.get(), 4), 0);
        const UnixListener listener = UnixListener::adopt(std::move(socket));
        EXPECT_EQ(listener.path(), path_);
        EXPECT_EQ(listener.accept().status, AcceptStatus::nothing);  // does not block
        const UniqueFd vmm = connect(path_);
        EXPECT_EQ(listener.accept().status, AcceptStatus::accepted);
    }
    EXPECT_TRUE(exists(path_));
}

TEST_F(UnixListenerTest, AdoptsNothingElse) {
    EXPECT_THROW(static_cast<void>(UnixListener::adopt(UniqueFd(::open("/dev/null", O_RDONLY)))), ArgumentError);
    EXPECT_THROW(static_cast<void>(UnixListener::adopt(UniqueFd(::socket(AF_UNIX, SOCK_STREAM, 0)))), ArgumentError);
    EXPECT_THROW(static_cast<void>(UnixListener::adopt(UniqueFd(::socket(AF_UNIX, SOCK_DGRAM, 0)))), ArgumentError);
    UniqueFd tcp(::socket(AF_INET, SOCK_STREAM, 0));
    if (tcp && ::listen(tcp.get(), 1) == 0) {
        EXPECT_THROW(static_cast<void>(UnixListener::adopt(std::move(tcp))), ArgumentError);
    }
}

TEST_F(UnixListenerTest, KeepsAVmmInTheQueueWhenOutOfDescriptors) {
    const UnixListener listener = UnixListener::create(path_);
    const UniqueFd vmm = connect(path_);
    AcceptOutcome refused;
    {
        const DescriptorLimit none(1);
        refused = listener.accept();
    }
    EXPECT_EQ(refused.status, AcceptStatus::out_of_descriptors);
    EXPECT_EQ(refused.errno_value, EMFILE);
    EXPECT_EQ(listener.accept().status, AcceptStatus::accepted);
}

TEST_F(UnixListenerTest, ReportsABrokenSocket) {
    UnixListener listener = UnixListener::create(path_);
    listener.close();
    EXPECT_EQ(listener.accept().status, AcceptStatus::failed);
    EXPECT_EQ(listener.accept().errno_value, EBADF);
}

}  // namespace
}  // namespace vmthaw
