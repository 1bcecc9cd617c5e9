#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <climits>
#include <exception>

#include "filesystem/host_identity.hpp"
#include "filesystem/passthrough_fs.hpp"
#include "kernel/fuse.hpp"

namespace vmthaw {

int PassthroughFs::readlink(const FuseCaller& /*caller*/, std::uint64_t node, std::string& target) noexcept {
    HostNodeRef ref;
    if (const int error = nodes_.find(node, ref); error != 0) {
        return error;
    }
    if (ref.type != S_IFLNK) {
        return EINVAL;
    }
    std::array<char, PATH_MAX + 1> buffer{};
    const ssize_t got = ::readlinkat(ref.get(), "", buffer.data(), buffer.size());
    if (got < 0) {
        return errno;
    }
    try {
        target.assign(buffer.data(), static_cast<std::size_t>(got));
    } catch (const std::exception&) {
        return ENOMEM;
    }
    return 0;
}

int PassthroughFs::symlink(const FuseCaller& caller, std::uint64_t parent, std::string_view name,
                           std::string_view target, NodeEntry& entry) noexcept {
    HostNodeRef directory;
    if (const int error = find_writable(parent, directory); error != 0) {
        return error;
    }
    {
        const Owner owner = owner_of(caller);
        const HostIdentity identity(owner.uid, owner.gid);
        if (::symlinkat(target.data(), directory.get(), name.data()) != 0) {
            return errno;
        }
    }
    return look_up_in(directory, name.data(), entry);
}

int PassthroughFs::mknod(const FuseCaller& caller, std::uint64_t parent, std::string_view name,
                         const FuseMknodIn& request, NodeEntry& entry) noexcept {
    HostNodeRef directory;
    if (const int error = find_writable(parent, directory); error != 0) {
        return error;
    }
    {
        constexpr std::uint32_t kMinorLowBits = 0xff;
        constexpr std::uint32_t kMajorBits = 0xfff;
        const Owner owner = owner_of(caller);
        const HostIdentity identity(owner.uid, owner.gid);
        const dev_t device = makedev((request.rdev >> 8U) & kMajorBits,
                                     (request.rdev & kMinorLowBits) | ((request.rdev >> 12U) & ~kMinorLowBits));
        if (::mknodat(directory.get(), name.data(), request.mode, device) != 0) {
            return errno;
        }
    }
    return look_up_in(directory, name.data(), entry);
}

int PassthroughFs::mkdir(const FuseCaller& caller, std::uint64_t parent, std::string_view name,
                         const FuseMkdirIn& request, NodeEntry& entry) noexcept {
    HostNodeRef directory;
    if (const int error = find_writable(parent, directory); error != 0) {
        return error;
    }
    {
        const Owner owner = owner_of(caller);
        const HostIdentity identity(owner.uid, owner.gid);
        if (::mkdirat(directory.get(), name.data(), request.mode) != 0) {
            return errno;
        }
    }
    return look_up_in(directory, name.data(), entry);
}

int PassthroughFs::unlink(const FuseCaller& /*caller*/, std::uint64_t parent, std::string_view name) noexcept {
    HostNodeRef directory;
    if (const int error = find_writable(parent, directory); error != 0) {
        return error;
    }
    return ::unlinkat(directory.get(), name.data(), 0) == 0 ? 0 : errno;
}

int PassthroughFs::rmdir(const FuseCaller& /*caller*/, std::uint64_t parent, std::string_view name) noexcept {
    HostNodeRef directory;
    if (const int error = find_writable(parent, directory); error != 0) {
        return error;
    }
    return ::unlinkat(directory.get(), name.data(), AT_REMOVEDIR) == 0 ? 0 : errno;
}

int PassthroughFs::rename(const FuseCaller& /*caller*/, std::uint64_t parent, std::string_view name,
                          std::uint64_t new_parent, std::string_view new_name, std::uint32_t flags) noexcept {
    if ((flags & ~(kRenameNoReplace | kRenameExchange | kRenameWhiteout)) != 0) {
        return EINVAL;
    }
    HostNodeRef from;
    HostNodeRef to;
    if (const int error = find_writable(parent, from); error != 0) {
        return error;
    }
    if (const int error = find_writable(new_parent, to); error != 0) {
        return error;
    }
    return host_rename(from.get(), name.data(), to.get(), new_name.data(), flags);
}

int PassthroughFs::link(const FuseCaller& /*caller*/, std::uint64_t node, std::uint64_t new_parent,
                        std::string_view new_name, NodeEntry& entry) noexcept {
    HostNodeRef ref;
    HostNodeRef directory;
    if (const int error = find_writable(node, ref); error != 0) {
        return error;
    }
    if (const int error = find_writable(new_parent, directory); error != 0) {
        return error;
    }
    // By /proc, and not AT_EMPTY_PATH, which only root may use.
    if (::linkat(AT_FDCWD, HostFdPath(ref.get()).c_str(), directory.get(), new_name.data(), AT_SYMLINK_FOLLOW) != 0) {
        return errno;
    }
    if (const int error = attributes(ref.get(), entry.attr); error != 0) {
        return error;
    }
    nodes_.look_up_again(node);
    entry.node = node;
    return 0;
}

}  // namespace vmthaw
