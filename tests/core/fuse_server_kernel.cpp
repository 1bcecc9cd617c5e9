#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/error.hpp"
#include "base/unique_fd.hpp"
#include "filesystem/host_calls.hpp"
#include "filesystem/memory_fs.hpp"
#include "filesystem/passthrough_fs.hpp"
#include "fuse/fuse_server.hpp"
#include "fuse/mount_table.hpp"

namespace vmthaw {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// User-mode emulation has neither openat2 nor the device's ioctl.
bool may_mount() {
    UniqueFd found;
    return ::geteuid() == 0 && ::access("/dev/fuse", R_OK | W_OK) == 0 &&
           host_open_beneath(AT_FDCWD, ".", O_PATH, 0, found) == 0;
}

// Two directories: what is served, and where.
class Directories {
public:
    Directories() {
        EXPECT_NE(::mkdtemp(base_.data()), nullptr);
        EXPECT_EQ(::mkdir(backing().c_str(), 0755), 0);
        EXPECT_EQ(::mkdir(mount_point().c_str(), 0755), 0);
    }
    ~Directories() {
        ::rmdir(mount_point().c_str());
        EXPECT_EQ(std::system(("rm -rf " + base_).c_str()), 0);
    }
    Directories(const Directories&) = delete;
    Directories& operator=(const Directories&) = delete;
    [[nodiscard]] std::string backing() const { return base_ + "/backing"; }
    [[nodiscard]] std::string mount_point() const { return base_ + "/mount"; }

private:
    std::string base_ = "/tmp/vmt-fuse-XXXXXX";
};

std::unique_ptr<FuseServer> served(const std::shared_ptr<FileSystem>& file_system, const Directories& directories,
                                   unsigned threads, bool splices = false) {
    auto dispatcher = std::make_shared<FuseDispatcher>(file_system);
    auto server =
        std::make_unique<FuseServer>(std::move(dispatcher), directories.mount_point(), FuseMountOptions{}, splices);
    server->start(threads);
    return server;
}

// Makes, writes, reads and removes files until told to end; false when a file held something else.
bool work(const std::string& directory, int worker, const std::atomic<bool>& ends) {
    std::string expected(100'000, 'x');
    for (int turn = 0; !ends; ++turn) {
        const std::string path = directory + "/" + std::to_string(worker) + "-" + std::to_string(turn % 5);
        const UniqueFd file(::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
        expected[0] = static_cast<char>('a' + turn % 26);
        if (!file || ::write(file.get(), expected.data(), expected.size()) < 0) {
            continue;  // it is being unmounted
        }
        std::string found(expected.size(), '\0');
        if (::pread(file.get(), found.data(), found.size(), 0) == static_cast<ssize_t>(found.size()) &&
            found != expected) {
            return false;
        }
        if (turn % 3 == 0) {
            ::unlink(path.c_str());
        }
    }
    return true;
}

void stop_under_load(const std::shared_ptr<FileSystem>& file_system, bool splices) {
    const Directories directories;
    auto server = served(file_system, directories, 3, splices);
    std::atomic<bool> ends{false};
    std::atomic<int> wrong{0};
    std::vector<std::thread> workers;
    for (int worker = 0; worker < 3; ++worker) {
        workers.emplace_back([&, worker] { wrong += work(directories.mount_point(), worker, ends) ? 0 : 1; });
    }
    while (server->stats().requests < 2000) {
        std::this_thread::sleep_for(milliseconds(1));
    }
    EXPECT_TRUE(server->stop(milliseconds(50)));
    ends = true;
    for (std::thread& worker : workers) {
        worker.join();
    }
    EXPECT_EQ(wrong, 0);
    EXPECT_EQ(server->stats().refused, 0U);
    EXPECT_FALSE(topmost_mount(directories.mount_point()).has_value());
    EXPECT_EQ(file_system->held_nodes(), 0U);
    EXPECT_EQ(file_system->open_handles(), 0U);
}

TEST(FuseServerKernel, StopsUnderLoadWithAMemoryFs) {
    if (!may_mount()) {
        GTEST_SKIP() << "needs root, /dev/fuse and openat2, to mount";
    }
    stop_under_load(std::make_shared<MemoryFs>(), false);
}

TEST(FuseServerKernel, StopsUnderLoadWithAPassthroughFs) {
    if (!may_mount()) {
        GTEST_SKIP() << "needs root, /dev/fuse and openat2, to mount";
    }
    const Directories backing;
    const auto file_system =
        std::make_shared<PassthroughFs>(backing.backing(), PassthroughOptions{.most_descriptors = 8});
    stop_under_load(file_system, true);
    EXPECT_EQ(file_system->open_descriptors(), 1U);
}

TEST(FuseServerKernel, ARequestInTheMiddleOfAStopIsFinished) {
    if (!may_mount()) {
        GTEST_SKIP() << "needs root, /dev/fuse and openat2, to mount";
    }
    // Answers a getattr of the root only when it is let go.
    class Slow final : public FileSystem {
    public:
        int getattr(const FuseCaller& /*caller*/, std::uint64_t /*node*/, std::uint64_t /*handle*/,
                    NodeAttributes& attributes) noexcept override {
            asked = true;
            while (!released) {
                std::this_thread::sleep_for(milliseconds(1));
            }
            attributes.attr.mode = S_IFDIR | 0755;
            attributes.attr.nlink = 2;
            return 0;
        }
        std::atomic<bool> asked{false};
        std::atomic<bool> released{false};
    };
    const Directories directories;
    const auto slow = std::make_shared<Slow>();
    auto server = served(slow, directories, 2);
    std::atomic<int> error{0};
    std::thread asker([&] {
        struct stat found{};
        error = ::stat(directories.mount_point().c_str(), &found) == 0 ? -1 : errno;
    });
    while (!slow->asked) {
        std::this_thread::sleep_for(milliseconds(1));
    }
    EXPECT_FALSE(server->stop(milliseconds(20)));  // its thread is still in there
    slow->released = true;
    EXPECT_TRUE(server->wait(seconds(20)));
    asker.join();
    EXPECT_TRUE(error == ENOTCONN || error == ECONNABORTED || error == -1) << error;
    server.reset();
}

TEST(FuseServerKernel, RefusesWhatItCannotDo) {
    if (!may_mount()) {
        GTEST_SKIP() << "needs root, /dev/fuse and openat2, to mount";
    }
    const Directories directories;
    const auto file_system = std::make_shared<MemoryFs>();
    const auto dispatcher = std::make_shared<FuseDispatcher>(file_system);
    EXPECT_THROW(FuseServer(dispatcher, directories.mount_point() + "/missing", {}, false), SystemError);
    FuseServer server(dispatcher, directories.mount_point(), {}, false);
    EXPECT_THROW(server.start(0), ArgumentError);
    EXPECT_THROW(server.start(257), ArgumentError);
    server.start(1);
    EXPECT_THROW(server.start(1), StateError);
    EXPECT_THROW(FuseServer(dispatcher, directories.mount_point(), {}, false), SystemError);  // EBUSY
    EXPECT_TRUE(server.stop(milliseconds(100)));
    EXPECT_TRUE(server.stop(milliseconds(100)));
    EXPECT_THROW(server.serve(), StateError);
}

}  // namespace
}  // namespace vmthaw
