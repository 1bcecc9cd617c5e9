#pragma once

#include <cstdint>
#include <string>

#include "base/fork_guard.hpp"
#include "fuse/fuse_device.hpp"

namespace vmthaw {

struct FuseMountOptions {
    std::string fsname = "vmthaw";  // the first column of /proc/mounts
    bool read_only = false;
    bool allow_other = false;         // other users too; without it, not even root, unless root has mounted
    bool default_permissions = true;  // the kernel checks modes and owners
    bool set_uid = false;             // honour set-uid bits and file capabilities
    bool devices = false;             // honour device files
    bool allow_nonempty = false;      // cover what lies in the directory
};

// A FUSE mount: made by mount(2) as root, else by fusermount3; taken away by unmount(). A dead mount of ours in its
// place (its server was killed) is cleared away first. One thread at a time. A forked child's copy is inert.
class FuseMount {
public:
    static constexpr const char* kType = "fuse.vmthaw";

    // Throws SystemError: ENOTDIR, ENOTEMPTY, EBUSY (something is mounted there), EACCES, EPERM; says what to do.
    FuseMount(const std::string& mount_point, const FuseMountOptions& options);
    FuseMount(FuseMount&&) noexcept = default;
    FuseMount(const FuseMount&) = delete;
    FuseMount& operator=(const FuseMount&) = delete;
    FuseMount& operator=(FuseMount&&) = delete;
    ~FuseMount();

    [[nodiscard]] FuseDevice& device() noexcept { return device_; }
    [[nodiscard]] const std::string& mount_point() const noexcept { return mount_point_; }  // absolute, no links
    // st_dev's minor number of the files in it, and the connection's name in /sys/fs/fuse/connections.
    [[nodiscard]] std::uint32_t device_minor() const noexcept { return minor_; }
    [[nodiscard]] bool by_fusermount() const noexcept { return by_fusermount_; }
    // Whether it is still there, for all to see.
    [[nodiscard]] bool mounted() const noexcept;
    // 0 also when it has gone already; EBUSY: files in it are open, or somebody works there. `lazy` takes it out of
    // sight at once; it ends when the last user has gone, or the device is closed.
    [[nodiscard]] int unmount(bool lazy) noexcept;

private:
    void mount_as_root(const FuseMountOptions& options);

    std::string mount_point_;
    FuseDevice device_;
    std::uint32_t minor_ = 0;
    bool by_fusermount_ = false;
    ForkGuard guard_;
};

}  // namespace vmthaw
