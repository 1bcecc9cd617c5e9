#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <exception>
#include <utility>

#include "filesystem/passthrough_fs.hpp"
#include "kernel/fuse.hpp"

namespace vmthaw {

int PassthroughFs::opendir(const FuseCaller& /*caller*/, std::uint64_t node, const FuseOpenIn& /*request*/,
                           OpenedFile& opened) noexcept {
    HostNodeRef ref;
    if (const int error = find_directory(node, ref); error != 0) {
        return error;
    }
    UniqueFd directory;
    if (const int error = host_open_beneath(ref.get(), ".", O_RDONLY | O_DIRECTORY, 0, directory); error != 0) {
        return error;
    }
    if (const int error = files_.add(std::move(directory), node, true, opened.handle); error != 0) {
        return error;
    }
    nodes_.opened(node);
    return 0;
}

int PassthroughFs::find_directory_handle(std::uint64_t handle, std::shared_ptr<HostHandle>& file) noexcept {
    file = files_.find(handle);
    if (file == nullptr) {
        return EBADF;
    }
    return file->is_directory ? 0 : ENOTDIR;
}

// false: it did not fit.
bool PassthroughFs::add_entry(const HostHandle& directory, const HostDirent& entry, bool plus,
                              DirectoryWriter& writer) noexcept {
    const bool dots = entry.name == "." || entry.name == "..";
    // Above the root lies what is none of the client's business.
    FuseStatx own;
    const bool hides = entry.name == ".." && directory.node == kFuseRootNode;
    const bool known = hides && host_statx(directory.get(), "", 0, 0, own) == 0;
    const std::uint64_t ino = hides ? (known ? own.ino : kFuseRootNode) : entry.ino;
    if (!plus) {
        return writer.add(entry.name, ino, entry.type, entry.next_offset);
    }
    NodeEntry found;
    found.attr.ino = ino;
    found.attr.mode = static_cast<std::uint32_t>(DTTOIF(entry.type));
    if (!dots) {
        const HostNodeRef parent{directory.fd, S_IFDIR};
        const int error = look_up_in(parent, entry.name.data(), found);
        if (error == ENOENT) {
            return true;  // it has gone since
        }
        if (error != 0) {
            found.node = 0;
        }
    }
    const bool fits = writer.add_entry(entry.name, found, entry.next_offset);
    if (!fits && found.node != 0) {
        nodes_.forget(found.node, 1);
    }
    return fits;
}

int PassthroughFs::readdir(const FuseCaller& /*caller*/, std::uint64_t /*node*/, std::uint64_t handle,
                           std::uint64_t offset, bool plus, DirectoryWriter& writer) noexcept {
    std::shared_ptr<HostHandle> file;
    if (const int error = find_directory_handle(handle, file); error != 0) {
        return error;
    }
    const std::lock_guard lock(file->mutex);
    bool any = false;
    for (;;) {
        HostDirent entry;
        if (const int error = file->entries.next(file->get(), offset, entry); error != 0) {
            return any ? 0 : error;
        }
        if (entry.name.empty() || !add_entry(*file, entry, plus, writer)) {
            return 0;
        }
        offset = entry.next_offset;
        any = true;
    }
}

int PassthroughFs::releasedir(const FuseCaller& caller, std::uint64_t node, std::uint64_t handle) noexcept {
    FuseReleaseIn request;
    request.fh = handle;
    return release(caller, node, request);
}

int PassthroughFs::fsyncdir(const FuseCaller& caller, std::uint64_t node, std::uint64_t handle,
                            bool data_only) noexcept {
    return fsync(caller, node, handle, data_only);
}

int PassthroughFs::dax_map(std::uint64_t node, std::uint64_t /*handle*/, std::uint64_t offset_bytes,
                           std::uint64_t length_bytes, std::uint32_t prot, Lease& lease) noexcept {
    const bool writes = (prot & kDaxWrite) != 0;
    if (writes && options_.read_only) {
        return EROFS;
    }
    HostNodeRef ref;
    if (const int error = nodes_.find(node, ref); error != 0) {
        return error;
    }
    if (ref.type != S_IFREG) {
        return ref.type == S_IFDIR ? EISDIR : EINVAL;
    }
    UniqueFd file;
    if (const int error = host_reopen(ref.get(), writes ? O_RDWR : O_RDONLY, file); error != 0) {
        return error;
    }
    const int fd = file.get();
    if (const int error = leases_.add(std::move(file), node, false, lease.token); error != 0) {
        return error;
    }
    nodes_.opened(node);
    lease.fd = fd;
    lease.offset_bytes = offset_bytes;
    lease.length_bytes = length_bytes;
    return 0;
}

int PassthroughFs::dax_unmap(const Lease& lease) noexcept {
    const auto file = leases_.take(lease.token);
    if (file == nullptr) {
        return EINVAL;
    }
    nodes_.closed(file->node);
    return 0;
}

}  // namespace vmthaw
