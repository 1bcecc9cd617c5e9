#include "filesystem/passthrough_fs.hpp"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <exception>
#include <string_view>
#include <utility>

#include "base/error.hpp"
#include "filesystem/host_identity.hpp"
#include "kernel/fuse.hpp"

namespace vmthaw {
namespace {

constexpr std::size_t kDescriptorsWithoutLimit = std::size_t{1} << 16U;

std::size_t default_descriptors() {
    rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) {
        return kDescriptorsWithoutLimit;
    }
    return static_cast<std::size_t>(limit.rlim_cur / 2);
}

// File systems of which close(2) reports what a write could not do; from <linux/magic.h> and fs/*/.
bool reports_at_close(int fd) {
    constexpr std::array<std::uint32_t, 9> kTypes{0x6969U,     0xff534d42U, 0xfe534d42U, 0x517bU,    0x65735546U,
                                                  0x00c36400U, 0x01021997U, 0x5346414fU, 0x6b414653U};
    struct statfs found{};
    return ::fstatfs(fd, &found) == 0 &&
           std::find(kTypes.begin(), kTypes.end(), static_cast<std::uint32_t>(found.f_type)) != kTypes.end();
}

}  // namespace

PassthroughFs::PassthroughFs(const std::string& directory, const PassthroughOptions& options)
    : PassthroughFs(directory, options, [&] {
          Root root;
          root.path.reset(::open(directory.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
          if (!root.path) {
              const int saved = errno;
              throw SystemError(saved, "opening the directory " + directory);
          }
          root.readable.reset(::open(HostFdPath(root.path.get()).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
          if (!root.readable) {
              const int saved = errno;
              throw SystemError(saved, "reading the directory " + directory,
                                saved == ENOENT ? "PassthroughFs needs /proc" : "");
          }
          UniqueFd beneath;
          if (const int error = host_open_beneath(root.path.get(), ".", O_PATH, 0, beneath); error != 0) {
              throw SystemError(error, "openat2", "PassthroughFs needs Linux 5.6");
          }
          check_returned(host_statx(root.path.get(), "", 0, 0, root.found), "statx");
          return root;
      }()) {}

PassthroughFs::PassthroughFs(std::string directory, const PassthroughOptions& options, Root root)
    : directory_(std::move(directory)),
      options_(options),
      reports_close_errors_(reports_at_close(root.path.get())),
      root_fd_(root.readable.get()),
      nodes_(std::move(root.path), std::move(root.readable), root.found,
             options.most_descriptors != 0 ? options.most_descriptors : default_descriptors()) {}

int PassthroughFs::init(InitTerms& terms) noexcept {
    terms.wanted |= kFuseAtomicOTrunc | kFuseHandleKillprivV2 | kFuseParallelDirops | kFuseDoReaddirplus |
                    kFuseReaddirplusAuto | kFuseAutoInvalData | kFuseAsyncRead | kFuseAsyncDio;
    destroy();
    return 0;
}

void PassthroughFs::destroy() noexcept {
    try {
        for (const auto& file : files_.take_all()) {
            nodes_.closed(file->node);
        }
    } catch (const std::exception&) {
        return;
    }
    nodes_.clear();
}

void PassthroughFs::forget(std::uint64_t node, std::uint64_t count) noexcept { nodes_.forget(node, count); }

PassthroughFs::Owner PassthroughFs::owner_of(const FuseCaller& caller) const noexcept {
    switch (options_.owner) {
        case OwnerPolicy::caller:
            return {caller.uid, caller.gid};
        case OwnerPolicy::fixed:
            return {options_.uid, options_.gid};
        case OwnerPolicy::server:
            break;
    }
    return {::geteuid(), ::getegid()};
}

int PassthroughFs::find_directory(std::uint64_t node, HostNodeRef& ref) noexcept {
    const int error = nodes_.find(node, ref);
    return error == 0 && ref.type != S_IFDIR ? ENOTDIR : error;
}

int PassthroughFs::find_writable(std::uint64_t node, HostNodeRef& ref) noexcept {
    return options_.read_only ? EROFS : nodes_.find(node, ref);
}

void PassthroughFs::fill(const FuseStatx& found, FuseAttr& attr) const noexcept {
    attr = attributes_of(found);
    attr.ino = nodes_.shown_inode(found);
}

int PassthroughFs::attributes(int fd, FuseAttr& attr) const noexcept {
    FuseStatx found;
    const int error = host_statx(fd, "", 0, 0, found);
    if (error == 0) {
        fill(found, attr);
    }
    return error;
}

int PassthroughFs::look_up_fd(UniqueFd path, NodeEntry& entry) noexcept {
    FuseStatx found;
    if (const int error = host_statx(path.get(), "", 0, 0, found); error != 0) {
        return error;
    }
    return look_up_found(std::move(path), found, entry);
}

int PassthroughFs::look_up_found(UniqueFd path, const FuseStatx& found, NodeEntry& entry) noexcept {
    if (const int error = nodes_.look_up(std::move(path), found, entry.node); error != 0) {
        return error;
    }
    fill(found, entry.attr);
    return 0;
}

int PassthroughFs::look_up_in(const HostNodeRef& parent, const char* name, NodeEntry& entry) noexcept {
    // A node that is known already, which most are, costs one call instead of three.
    FuseStatx found;
    if (const int error = host_statx(parent.get(), name, 0, 0, found); error != 0) {
        return error;
    }
    entry.node = nodes_.look_up_known(found);
    if (entry.node != 0) {
        fill(found, entry.attr);
        return 0;
    }
    UniqueFd path;
    if (const int error = host_open_beneath(parent.get(), name, O_PATH, 0, path); error != 0) {
        return error;
    }
    return look_up_fd(std::move(path), entry);
}

int PassthroughFs::lookup(const FuseCaller& /*caller*/, std::uint64_t parent, std::string_view name,
                          NodeEntry& entry) noexcept {
    if (name == "..") {
        return EINVAL;  // the kernel knows parents by itself
    }
    HostNodeRef directory;
    if (const int error = find_directory(parent, directory); error != 0) {
        return error;
    }
    const int error = look_up_in(directory, name.data(), entry);
    if (error == ENOENT) {
        entry.node = 0;  // and that may be remembered
        return options_.caches_absence ? 0 : ENOENT;
    }
    return error;
}

int PassthroughFs::getattr(const FuseCaller& /*caller*/, std::uint64_t node, std::uint64_t handle,
                           NodeAttributes& attributes) noexcept {
    if (handle != kFuseNoHandle) {
        const auto file = files_.find(handle);
        return file == nullptr ? EBADF : this->attributes(file->get(), attributes.attr);
    }
    HostNodeRef ref;
    const int error = nodes_.find(node, ref);
    return error != 0 ? error : this->attributes(ref.get(), attributes.attr);
}

int PassthroughFs::statx(const FuseCaller& /*caller*/, std::uint64_t node, std::uint64_t handle, std::uint32_t flags,
                         std::uint32_t mask, FuseStatx& stat) noexcept {
    constexpr std::uint32_t kSyncFlags = 0x6000;  // AT_STATX_SYNC_TYPE
    int error = 0;
    if (handle != kFuseNoHandle) {
        const auto file = files_.find(handle);
        error = file == nullptr ? EBADF : host_statx(file->get(), "", flags & kSyncFlags, mask, stat);
    } else {
        HostNodeRef ref;
        error = nodes_.find(node, ref);
        error = error != 0 ? error : host_statx(ref.get(), "", flags & kSyncFlags, mask, stat);
    }
    if (error == 0) {
        stat.ino = nodes_.shown_inode(stat);
        stat.mask &= kStatxBasicStats | kStatxBtime;
        stat.spare2 = {};
    }
    return error;
}

int PassthroughFs::statfs(const FuseCaller& /*caller*/, std::uint64_t node, FuseStatfs& statfs) noexcept {
    HostNodeRef ref;
    if (const int error = nodes_.find(node, ref); error != 0) {
        return error;
    }
    struct statfs found{};
    if (::fstatfs(ref.get(), &found) != 0) {
        return errno;
    }
    statfs.blocks = found.f_blocks;
    statfs.bfree = found.f_bfree;
    statfs.bavail = found.f_bavail;
    statfs.files = found.f_files;
    statfs.ffree = found.f_ffree;
    statfs.bsize = static_cast<std::uint32_t>(found.f_bsize);
    statfs.frsize = static_cast<std::uint32_t>(found.f_frsize != 0 ? found.f_frsize : found.f_bsize);
    statfs.namelen = static_cast<std::uint32_t>(found.f_namelen);
    return 0;
}

int PassthroughFs::syncfs(const FuseCaller& /*caller*/, std::uint64_t /*node*/) noexcept {
    return ::syncfs(root_fd_) == 0 ? 0 : errno;
}

}  // namespace vmthaw
