#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <exception>

#include "base/clock.hpp"
#include "filesystem/host_identity.hpp"
#include "filesystem/passthrough_fs.hpp"
#include "kernel/fuse.hpp"

namespace vmthaw {
namespace {

constexpr std::size_t kMostXattrBytes = 65536;  // XATTR_SIZE_MAX and XATTR_LIST_MAX

timespec wanted_time(std::uint32_t valid, std::uint32_t set, std::uint32_t now, std::uint64_t seconds,
                     std::uint32_t nanoseconds) noexcept {
    timespec time{};
    if ((valid & now) != 0) {
        time.tv_nsec = UTIME_NOW;
    } else if ((valid & set) != 0) {
        time.tv_sec = static_cast<time_t>(seconds);
        time.tv_nsec = static_cast<long>(nanoseconds);
    } else {
        time.tv_nsec = UTIME_OMIT;
    }
    return time;
}

int change_times(int fd, const FuseSetattrIn& change) noexcept {
    if (((change.valid & kFattrAtime) != 0 && change.atimensec >= kSecond_ns) ||
        ((change.valid & kFattrMtime) != 0 && change.mtimensec >= kSecond_ns)) {
        return EINVAL;
    }
    const std::array<timespec, 2> times{
        wanted_time(change.valid, kFattrAtime, kFattrAtimeNow, change.atime, change.atimensec),
        wanted_time(change.valid, kFattrMtime, kFattrMtimeNow, change.mtime, change.mtimensec)};
    return ::utimensat(fd, "", times.data(), AT_EMPTY_PATH) == 0 ? 0 : errno;
}

int change_owner(int fd, const FuseSetattrIn& change) noexcept {
    const uid_t uid = (change.valid & kFattrUid) != 0 ? change.uid : static_cast<uid_t>(-1);
    const gid_t gid = (change.valid & kFattrGid) != 0 ? change.gid : static_cast<gid_t>(-1);
    return ::fchownat(fd, "", uid, gid, AT_EMPTY_PATH) == 0 ? 0 : errno;
}

int change_size(const HostNodeRef& node, const HostHandle* file, const FuseSetattrIn& change) noexcept {
    if (node.type == S_IFDIR) {
        return EISDIR;
    }
    if (node.type != S_IFREG || change.size > INT64_MAX) {
        return node.type != S_IFREG ? EINVAL : EFBIG;
    }
    UniqueFd opened;
    if (file == nullptr) {
        if (const int error = host_reopen(node.get(), O_WRONLY, opened); error != 0) {
            return error;
        }
    }
    const int fd = file != nullptr ? file->get() : opened.get();
    const HostKillsPrivileges kills(fd, (change.valid & kFattrKillSuidgid) != 0);
    return ::ftruncate(fd, static_cast<off_t>(change.size)) == 0 ? 0 : errno;
}

}  // namespace

int PassthroughFs::change(const HostNodeRef& node, const HostHandle* file, const FuseSetattrIn& change) noexcept {
    int error = 0;
    // The mode last: a new owner takes set-uid bits away.
    if ((change.valid & (kFattrUid | kFattrGid)) != 0) {
        error = change_owner(node.get(), change);
    }
    if (error == 0 && (change.valid & kFattrMode) != 0) {
        constexpr std::uint32_t kPermissions = 07777;
        error = ::chmod(HostFdPath(node.get()).c_str(), change.mode & kPermissions) == 0 ? 0 : errno;
    }
    if (error == 0 && (change.valid & kFattrSize) != 0) {
        error = change_size(node, file, change);
    }
    if (error == 0 && (change.valid & (kFattrAtime | kFattrMtime | kFattrAtimeNow | kFattrMtimeNow)) != 0) {
        error = change_times(node.get(), change);
    }
    return error;
}

int PassthroughFs::setattr(const FuseCaller& /*caller*/, std::uint64_t node, const FuseSetattrIn& change,
                           NodeAttributes& attributes) noexcept {
    HostNodeRef ref;
    if (const int error = find_writable(node, ref); error != 0) {
        return error;
    }
    std::shared_ptr<HostHandle> file;
    if ((change.valid & kFattrHandle) != 0) {
        file = files_.find(change.fh);
        if (file == nullptr || file->node != node) {
            return EBADF;
        }
    }
    const int error = this->change(ref, file.get(), change);
    return error != 0 ? error : this->attributes(ref.get(), attributes.attr);
}

bool PassthroughFs::allows_xattr(std::string_view name) const noexcept {
    // ACLs would have to be checked by the client's kernel, which checks the modes alone.
    return options_.xattrs && !name.starts_with("system.posix_acl_");
}

int PassthroughFs::setxattr(const FuseCaller& /*caller*/, std::uint64_t node, std::string_view name,
                            std::span<const std::byte> value, std::uint32_t flags) noexcept {
    HostNodeRef ref;
    if (const int error = find_writable(node, ref); error != 0) {
        return error;
    }
    if (!allows_xattr(name)) {
        return EOPNOTSUPP;
    }
    const HostFdPath path(ref.get());
    return ::setxattr(path.c_str(), name.data(), value.data(), value.size(), static_cast<int>(flags)) == 0 ? 0 : errno;
}

int PassthroughFs::getxattr(const FuseCaller& /*caller*/, std::uint64_t node, std::string_view name,
                            std::string& value) noexcept {
    if (!allows_xattr(name)) {
        return EOPNOTSUPP;
    }
    HostNodeRef ref;
    if (const int error = nodes_.find(node, ref); error != 0) {
        return error;
    }
    const HostFdPath path(ref.get());
    std::array<char, 256> small{};
    ssize_t got = ::getxattr(path.c_str(), name.data(), small.data(), small.size());
    try {
        if (got >= 0) {
            value.assign(small.data(), static_cast<std::size_t>(got));
        } else if (errno == ERANGE) {
            value.resize(kMostXattrBytes);
            got = ::getxattr(path.c_str(), name.data(), value.data(), value.size());
            const int saved = errno;
            value.resize(got < 0 ? 0 : static_cast<std::size_t>(got));
            errno = saved;
        }
    } catch (const std::exception&) {
        return ENOMEM;
    }
    return got < 0 ? errno : 0;
}

int PassthroughFs::listxattr(const FuseCaller& /*caller*/, std::uint64_t node, std::string& names) noexcept {
    if (!options_.xattrs) {
        return EOPNOTSUPP;
    }
    HostNodeRef ref;
    if (const int error = nodes_.find(node, ref); error != 0) {
        return error;
    }
    try {
        std::string all(kMostXattrBytes, '\0');
        const ssize_t got = ::listxattr(HostFdPath(ref.get()).c_str(), all.data(), all.size());
        if (got < 0) {
            return errno;
        }
        std::string_view left(all.data(), static_cast<std::size_t>(got));
        while (!left.empty()) {
            const std::string_view name = left.substr(0, left.find('\0'));
            if (allows_xattr(name)) {
                names.append(name).push_back('\0');
            }
            left.remove_prefix(name.size() + 1);
        }
    } catch (const std::exception&) {
        return ENOMEM;
    }
    return 0;
}

int PassthroughFs::removexattr(const FuseCaller& /*caller*/, std::uint64_t node, std::string_view name) noexcept {
    HostNodeRef ref;
    if (const int error = find_writable(node, ref); error != 0) {
        return error;
    }
    if (!allows_xattr(name)) {
        return EOPNOTSUPP;
    }
    return ::removexattr(HostFdPath(ref.get()).c_str(), name.data()) == 0 ? 0 : errno;
}

}  // namespace vmthaw
