#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/fork_guard.hpp"
#include "fuse/fuse_dispatcher.hpp"
#include "fuse/fuse_mount.hpp"
#include "fuse/fuse_reader.hpp"

namespace vmthaw {

struct FuseServerStats {
    std::uint64_t requests = 0;
    std::uint64_t replies = 0;
    std::uint64_t spliced = 0;
    std::uint64_t unwanted = 0;
    std::uint64_t refused = 0;
    std::uint32_t readers = 0;  // at this moment
};

// Mounts a file system and answers the kernel until it is unmounted, by stop() or by anybody. Owns the mount and its
// C++ threads; stops in its destructor. When the last reader has left, the connection is closed (whoever still waits
// gets ENOTCONN) and the file system's nodes are forgotten. Any thread; in a forked child it is inert.
class FuseServer {
public:
    // Mounts; nothing is answered yet. Throws as FuseMount.
    FuseServer(std::shared_ptr<FuseDispatcher> dispatcher, const std::string& mount_point,
               const FuseMountOptions& options, bool splices);
    FuseServer(const FuseServer&) = delete;
    FuseServer& operator=(const FuseServer&) = delete;
    ~FuseServer();

    // Starts that many C++ readers (1 to 256). Not for a file system that takes the GIL. Throws SystemError,
    // StateError.
    void start(unsigned threads);
    // Is a reader on the calling thread, until the unmount. Throws as FuseReader.
    void serve();
    // Unmounts; where files are still open after `patience` it is taken out of sight and the connection cut, so that
    // their users get ENOTCONN. Then waits for readers in the middle of a request, for at most `patience` more: false
    // when one still is. Idempotent.
    bool stop(std::chrono::milliseconds patience);
    // True when it has been unmounted and the last reader has left.
    [[nodiscard]] bool wait(std::chrono::milliseconds timeout);

    [[nodiscard]] bool serving() const;
    [[nodiscard]] FuseServerStats stats() const;
    [[nodiscard]] FuseMount& mount() noexcept { return mount_; }
    [[nodiscard]] const ForkGuard& guard() const noexcept { return guard_; }

private:
    class Place;

    void read(FuseReader& reader);
    void enter(FuseReader& reader);
    void leave(FuseReader& reader) noexcept;
    void cut_all() noexcept;
    [[nodiscard]] bool finished_within(std::chrono::milliseconds timeout) const;
    [[nodiscard]] bool unmount_within(std::chrono::milliseconds patience);

    ForkGuard guard_;
    std::shared_ptr<FuseDispatcher> dispatcher_;
    bool splices_;
    FuseCounters counters_;
    FuseMount mount_;
    std::mutex stop_mutex_;  // one stop() at a time; taken before mutex_
    mutable std::mutex mutex_;
    mutable std::condition_variable changed_;
    std::vector<FuseReader*> readers_;
    std::vector<std::thread> threads_;
    bool began_ = false;     // there was a reader
    bool ended_ = false;     // nobody may begin to read
    bool finished_ = false;  // the last reader has left, and the file system has forgotten its nodes
};

}  // namespace vmthaw
