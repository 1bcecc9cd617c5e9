#include "fuse/fuse_mount.hpp"

#include <dirent.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string_view>

#include "base/error.hpp"
#include "base/log.hpp"
#include "fuse/dead_mount.hpp"
#include "fuse/fusermount.hpp"
#include "fuse/mount_table.hpp"

namespace vmthaw {
namespace {

std::string resolved(const std::string& path) {
    std::array<char, PATH_MAX> buffer{};
    if (::realpath(path.c_str(), buffer.data()) == nullptr) {
        const int saved = errno;
        throw SystemError(saved, "mounting on " + path, saved == ENOENT ? "make the directory first" : "");
    }
    return buffer.data();
}

bool is_empty_directory(const std::string& path) {
    DIR* const directory = ::opendir(path.c_str());
    if (directory == nullptr) {
        const int saved = errno;
        throw SystemError(saved, "mounting on " + path);
    }
    bool empty = true;
    while (const dirent* const entry = ::readdir(directory)) {
        const std::string_view name(&entry->d_name[0]);
        empty = empty && (name == "." || name == "..");
    }
    ::closedir(directory);
    return empty;
}

void check_mount_point(const std::string& path, bool allow_nonempty) {
    if (const auto entry = topmost_mount(path)) {
        const std::string what = "mounting on " + path;
        if (entry->type != FuseMount::kType || !clear_dead_mount(*entry)) {
            throw SystemError(EBUSY, what, entry->type + " (" + entry->source + ") is mounted there: unmount it first");
        }
    }
    struct stat found{};
    check_errno(::stat(path.c_str(), &found), "stat of the mount point");
    if (!S_ISDIR(found.st_mode)) {
        throw SystemError(ENOTDIR, "mounting on " + path, "a file system is mounted on a directory");
    }
    if (!allow_nonempty && !is_empty_directory(path)) {
        throw SystemError(ENOTEMPTY, "mounting on " + path,
                          "its files would be hidden: take an empty directory, or allow it (nonempty)");
    }
}

// In both languages a comma ends an option, and fusermount3 takes it back behind a backslash.
std::string escaped_name(std::string_view name) {
    std::string result;
    for (const char letter : name) {
        if (letter == ',' || letter == '\\') {
            result.push_back('\\');
        }
        result.push_back(letter);
    }
    return result;
}

UniqueFd mount_as_user(const std::string& mount_point, const FuseMountOptions& options) {
    std::string text = "fsname=" + escaped_name(options.fsname) + ",subtype=vmthaw";
    text += options.read_only ? ",ro" : "";
    text += options.allow_other ? ",allow_other" : "";
    text += options.default_permissions ? ",default_permissions" : "";
    return fusermount_mount(mount_point, text);
}

}  // namespace

FuseMount::FuseMount(const std::string& mount_point, const FuseMountOptions& options)
    : mount_point_(resolved(mount_point)), device_(FuseDevice::adopt(UniqueFd())) {
    check_mount_point(mount_point_, options.allow_nonempty);
    if (options.fsname.find('\0') != std::string::npos || options.fsname.find('\n') != std::string::npos) {
        throw ArgumentError("fsname holds a NUL or the end of a line");
    }
    if (::geteuid() == 0) {
        mount_as_root(options);
    }
    if (device_.fd() < 0) {
        device_ = FuseDevice::adopt(mount_as_user(mount_point_, options));
        by_fusermount_ = true;
    }
    if (const auto entry = topmost_mount(mount_point_)) {
        minor_ = entry->device_minor;
    }
}

void FuseMount::mount_as_root(const FuseMountOptions& options) {
    FuseDevice device = FuseDevice::open();
    std::string data = "fd=" + std::to_string(device.fd()) + ",rootmode=40000,user_id=0,group_id=0";
    data += options.allow_other ? ",allow_other" : "";
    data += options.default_permissions ? ",default_permissions" : "";
    unsigned long flags = options.read_only ? static_cast<unsigned long>(MS_RDONLY) : 0;
    flags |= options.set_uid ? 0UL : static_cast<unsigned long>(MS_NOSUID);
    flags |= options.devices ? 0UL : static_cast<unsigned long>(MS_NODEV);
    if (::mount(options.fsname.c_str(), mount_point_.c_str(), kType, flags, data.c_str()) == 0) {
        device_ = std::move(device);
    } else if (const int saved = errno; saved != EPERM) {
        throw SystemError(saved, "mounting on " + mount_point_,
                          saved == ENODEV ? "this kernel has no FUSE: load the module (modprobe fuse)" : "");
    }
}

FuseMount::~FuseMount() {
    if (device_.fd() >= 0 && !guard_.inherited()) {
        if (unmount(false) != 0) {
            [[maybe_unused]] const int lazily = unmount(true);
        }
    }
}

bool FuseMount::mounted() const noexcept {
    try {
        const auto entry = topmost_mount(mount_point_);
        return entry && entry->type == kType && entry->device_minor == minor_;
    } catch (const std::exception&) {
        return true;  // rather one try too many than a mount left behind
    }
}

int FuseMount::unmount(bool lazy) noexcept {
    if (guard_.inherited() || !mounted()) {
        return 0;
    }
    if (by_fusermount_) {
        return fusermount_unmount(mount_point_, lazy);
    }
    const int flags = UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0);
    return ::umount2(mount_point_.c_str(), flags) == 0 || errno == EINVAL ? 0 : errno;
}

}  // namespace vmthaw
