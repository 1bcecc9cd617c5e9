#include <sys/xattr.h>

#include <cerrno>
#include <string>
#include <utility>

#include "filesystem/memory_fs.hpp"
#include "filesystem/realtime.hpp"
#include "kernel/fuse.hpp"

namespace vmthaw {
namespace {

// What listxattr(2) can list.
constexpr std::uint64_t kXattrNames_bytes = 65536;

timespec given_time(std::uint64_t seconds, std::uint32_t nanoseconds) noexcept {
    timespec time{};
    time.tv_sec = static_cast<std::int64_t>(seconds);
    time.tv_nsec = nanoseconds;
    return time;
}

FuseStatxTime wire_time(const timespec& time) noexcept {
    return {time.tv_sec, static_cast<std::uint32_t>(time.tv_nsec), 0};
}

void set_times(MemoryNode& node, const FuseSetattrIn& change, const timespec& now) noexcept {
    if ((change.valid & kFattrAtime) != 0) {
        node.atime = (change.valid & kFattrAtimeNow) != 0 ? now : given_time(change.atime, change.atimensec);
    }
    if ((change.valid & kFattrMtime) != 0) {
        node.mtime = (change.valid & kFattrMtimeNow) != 0 ? now : given_time(change.mtime, change.mtimensec);
    }
    // Last: any change stamps it, unless the client keeps that time itself.
    node.ctime = (change.valid & kFattrCtime) != 0 ? given_time(change.ctime, change.ctimensec) : now;
}

// No access lists, so that nobody trusts one that is not obeyed.
bool is_refused(std::string_view name) noexcept { return name.starts_with("system."); }

}  // namespace

int MemoryFs::getattr(const FuseCaller& /*caller*/, std::uint64_t node, std::uint64_t handle,
                      NodeAttributes& attributes) noexcept {
    return locked([&] {
        MemoryNode* found = find(node);
        if (found == nullptr && handle != kFuseNoHandle) {
            if (const int error = find_open(node, handle, false, found); error != 0) {
                return error;
            }
        }
        if (found == nullptr) {
            return ESTALE;
        }
        attributes.attr = found->attributes();
        return 0;
    });
}

int MemoryFs::setattr(const FuseCaller& /*caller*/, std::uint64_t node, const FuseSetattrIn& change,
                      NodeAttributes& attributes) noexcept {
    return locked([&] {
        MemoryNode* found = find(node);
        if (found == nullptr) {
            return ESTALE;
        }
        const timespec now = realtime_now();
        if ((change.valid & kFattrSize) != 0) {
            if (!found->is_regular()) {
                return found->is_directory() ? EISDIR : EINVAL;
            }
            if ((change.valid & kFattrHandle) != 0) {
                if (const int error = find_open(node, change.fh, true, found); error != 0) {
                    return error;
                }
            }
            const int error = change_data(*found, [&](MemoryData& data) { return data.resize(change.size); });
            if (error != 0) {
                return error;
            }
            found->mtime = now;
            if ((change.valid & kFattrKillSuidgid) != 0) {
                found->drop_set_id_bits();
            }
        }
        if ((change.valid & (kFattrUid | kFattrGid)) != 0) {
            found->uid = (change.valid & kFattrUid) != 0 ? change.uid : found->uid;
            found->gid = (change.valid & kFattrGid) != 0 ? change.gid : found->gid;
            found->drop_set_id_bits();
        }
        if ((change.valid & kFattrMode) != 0) {
            found->mode = (found->mode & S_IFMT) | (change.mode & 07777U);
        }
        set_times(*found, change, now);
        attributes.attr = found->attributes();
        return 0;
    });
}

int MemoryFs::statx(const FuseCaller& /*caller*/, std::uint64_t node, std::uint64_t handle, std::uint32_t /*flags*/,
                    std::uint32_t /*mask*/, FuseStatx& stat) noexcept {
    return locked([&] {
        MemoryNode* found = find(node);
        if (found == nullptr && handle != kFuseNoHandle) {
            if (const int error = find_open(node, handle, false, found); error != 0) {
                return error;
            }
        }
        if (found == nullptr) {
            return ESTALE;
        }
        const FuseAttr attr = found->attributes();
        stat.mask = kStatxBasicStats | kStatxBtime;
        stat.blksize = attr.blksize;
        stat.nlink = attr.nlink;
        stat.uid = attr.uid;
        stat.gid = attr.gid;
        stat.mode = static_cast<std::uint16_t>(attr.mode);
        stat.ino = attr.ino;
        stat.size = attr.size;
        stat.blocks = attr.blocks;
        stat.atime = wire_time(found->atime);
        stat.mtime = wire_time(found->mtime);
        stat.ctime = wire_time(found->ctime);
        stat.btime = wire_time(found->btime);
        // As the kernel's new_encode_dev() packs them.
        stat.rdev_major = (attr.rdev >> 8U) & 0xfff;
        stat.rdev_minor = (attr.rdev & 0xff) | ((attr.rdev >> 12U) & 0xfff00);
        return 0;
    });
}

int MemoryFs::setxattr(const FuseCaller& /*caller*/, std::uint64_t node, std::string_view name,
                       std::span<const std::byte> value, std::uint32_t flags) noexcept {
    if (is_refused(name)) {
        return EOPNOTSUPP;
    }
    return locked([&] {
        MemoryNode* found = find(node);
        if (found == nullptr) {
            return ESTALE;
        }
        const auto old = found->xattrs.find(name);
        if (old != found->xattrs.end() && (flags & XATTR_CREATE) != 0) {
            return EEXIST;
        }
        if (old == found->xattrs.end() && (flags & XATTR_REPLACE) != 0) {
            return ENODATA;
        }
        std::uint64_t names = name.size() + 1;
        for (const auto& [other, ignored] : found->xattrs) {
            names += other.size() + 1;
        }
        const std::uint64_t freed = old == found->xattrs.end() ? 0 : name.size() + old->second.size();
        const std::uint64_t taken = name.size() + value.size();
        if (names > kXattrNames_bytes || (taken > freed && taken - freed > free_bytes())) {
            return ENOSPC;
        }
        std::string kept(reinterpret_cast<const char*>(value.data()), value.size());
        if (old == found->xattrs.end()) {
            found->xattrs.emplace(name, std::move(kept));
        } else {
            old->second = std::move(kept);
        }
        used_bytes_ = used_bytes_ - freed + taken;
        found->ctime = realtime_now();
        return 0;
    });
}

int MemoryFs::getxattr(const FuseCaller& /*caller*/, std::uint64_t node, std::string_view name,
                       std::string& value) noexcept {
    if (is_refused(name)) {
        return EOPNOTSUPP;
    }
    return locked([&] {
        const MemoryNode* found = find(node);
        if (found == nullptr) {
            return ESTALE;
        }
        const auto known = found->xattrs.find(name);
        if (known == found->xattrs.end()) {
            return ENODATA;
        }
        value = known->second;
        return 0;
    });
}

int MemoryFs::listxattr(const FuseCaller& /*caller*/, std::uint64_t node, std::string& names) noexcept {
    return locked([&] {
        const MemoryNode* found = find(node);
        if (found == nullptr) {
            return ESTALE;
        }
        for (const auto& [name, value] : found->xattrs) {
            names.append(name).push_back('\0');
        }
        return 0;
    });
}

int MemoryFs::removexattr(const FuseCaller& /*caller*/, std::uint64_t node, std::string_view name) noexcept {
    if (is_refused(name)) {
        return EOPNOTSUPP;
    }
    return locked([&] {
        MemoryNode* found = find(node);
        if (found == nullptr) {
            return ESTALE;
        }
        const auto known = found->xattrs.find(name);
        if (known == found->xattrs.end()) {
            return ENODATA;
        }
        used_bytes_ -= known->first.size() + known->second.size();
        found->xattrs.erase(known);
        found->ctime = realtime_now();
        return 0;
    });
}

}  // namespace vmthaw
