#include "fuse/dead_mount.hpp"

#include <sys/mount.h>
#include <sys/vfs.h>

#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>

#include "base/log.hpp"
#include "base/thread.hpp"
#include "fuse/fusermount.hpp"

namespace vmthaw {
namespace {

constexpr std::chrono::seconds kPatience{2};

struct Probe {
    std::mutex mutex;
    std::condition_variable done;
    int error = -1;  // not known yet
};

// The errno of asking whoever serves `path`, or -1. A live server that hangs would hold its asker for ever, so that is
// a thread which nobody waits for.
int probe(const std::string& path) {
    auto shared = std::make_shared<Probe>();
    start_thread("vmthaw-probe", [shared, path] {
        struct statfs found{};
        const int error = ::statfs(path.c_str(), &found) == 0 ? 0 : errno;
        const std::lock_guard lock(shared->mutex);
        shared->error = error;
        shared->done.notify_all();
    }).detach();
    std::unique_lock lock(shared->mutex);
    shared->done.wait_for(lock, kPatience, [&] { return shared->error >= 0; });
    return shared->error;
}

}  // namespace

bool clear_dead_mount(const MountEntry& entry) {
    if (const int error = probe(entry.mount_point); error != ENOTCONN && error != ECONNABORTED) {
        return false;
    }
    if (::umount2(entry.mount_point.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) != 0 &&
        fusermount_unmount(entry.mount_point, true) != 0) {
        return false;
    }
    log_line(LogLevel::warning, "fuse", "took away a dead mount, whose server had ended: " + entry.mount_point);
    return true;
}

}  // namespace vmthaw
