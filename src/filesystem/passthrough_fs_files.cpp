#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "filesystem/host_identity.hpp"
#include "filesystem/passthrough_fs.hpp"
#include "kernel/fuse.hpp"

namespace vmthaw {
namespace {

// What of a client's flags reaches the host. Not O_APPEND: the client says where (pwrite would not listen). Not
// O_DIRECT: its buffers are not ours.
constexpr int kKeptFlags = O_ACCMODE | O_TRUNC | O_SYNC | O_DSYNC | O_NOATIME;
// Below that a copy is cheaper than a pipe.
constexpr std::size_t kLeastSplicedBytes = 65536;

bool writes(std::uint32_t flags) noexcept {
    return (flags & O_ACCMODE) != O_RDONLY || (flags & static_cast<std::uint32_t>(O_TRUNC)) != 0;
}

}  // namespace

int PassthroughFs::open_node(std::uint64_t node, int flags, bool kills, OpenedFile& opened) noexcept {
    HostNodeRef ref;
    if (const int error = nodes_.find(node, ref); error != 0) {
        return error;
    }
    if (ref.type != S_IFREG) {
        return ref.type == S_IFDIR ? EISDIR : ref.type == S_IFLNK ? ELOOP : ENXIO;  // the rest is the client's to open
    }
    UniqueFd file;
    {
        const HostKillsPrivileges without(ref.get(), kills && (flags & O_TRUNC) != 0);
        if (const int error = host_reopen(ref.get(), flags, file); error != 0) {
            return error;
        }
    }
    if (const int error = files_.add(std::move(file), node, false, opened.handle); error != 0) {
        return error;
    }
    nodes_.opened(node);
    opened.open_flags = reports_close_errors_ ? 0 : kFopenNoflush;
    return 0;
}

int PassthroughFs::open(const FuseCaller& /*caller*/, std::uint64_t node, const FuseOpenIn& request,
                        OpenedFile& opened) noexcept {
    if (options_.read_only && writes(request.flags)) {
        return EROFS;
    }
    const int flags = static_cast<int>(request.flags) & kKeptFlags;
    return open_node(node, flags, (request.open_flags & kFuseOpenKillSuidgid) != 0, opened);
}

int PassthroughFs::look_up_new(const HostNodeRef& directory, const char* name, int file, NodeEntry& entry) noexcept {
    // By its name, which is faster than by /proc, if that is still its: `file` keeps the number from being another's.
    UniqueFd path;
    FuseStatx named;
    FuseStatx opened;
    if (host_open_beneath(directory.get(), name, O_PATH, 0, path) == 0 &&
        host_statx(path.get(), "", 0, 0, named) == 0 && host_statx(file, "", 0, kStatxIno, opened) == 0 &&
        named.ino == opened.ino && named.dev_major == opened.dev_major && named.dev_minor == opened.dev_minor) {
        return look_up_found(std::move(path), named, entry);
    }
    return look_up_opened(file, entry);
}

int PassthroughFs::look_up_opened(int file, NodeEntry& entry) noexcept {
    // A node's descriptor is another one, that is not open for writing: else nobody could execute the file.
    UniqueFd path;
    const int error = host_reopen(file, O_PATH, path);
    return error != 0 ? error : look_up_fd(std::move(path), entry);
}

int PassthroughFs::keep_new(UniqueFd file, const NodeEntry& entry, OpenedFile& opened) noexcept {
    if (const int error = files_.add(std::move(file), entry.node, false, opened.handle); error != 0) {
        nodes_.forget(entry.node, 1);
        return error;
    }
    nodes_.opened(entry.node);
    opened.open_flags = reports_close_errors_ ? 0 : kFopenNoflush;
    return 0;
}

int PassthroughFs::create(const FuseCaller& caller, std::uint64_t parent, std::string_view name,
                          const FuseCreateIn& request, NodeEntry& entry, OpenedFile& opened) noexcept {
    HostNodeRef directory;
    if (const int error = find_writable(parent, directory); error != 0) {
        return error;
    }
    const int flags = static_cast<int>(request.flags) & kKeptFlags;
    UniqueFd file;
    int error = 0;
    {
        const Owner owner = owner_of(caller);
        const HostIdentity identity(owner.uid, owner.gid);
        error = host_open_beneath(directory.get(), name.data(), flags | O_CREAT | O_EXCL, request.mode, file);
    }
    if (error == 0) {
        error = look_up_new(directory, name.data(), file.get(), entry);
        return error != 0 ? error : keep_new(std::move(file), entry, opened);
    }
    if (error != EEXIST || (request.flags & static_cast<std::uint32_t>(O_EXCL)) != 0) {
        return error;
    }
    // Somebody on the host was faster: what is there now is opened as any other file.
    if (error = look_up_in(directory, name.data(), entry); error != 0) {
        return error;
    }
    error = open_node(entry.node, flags, (request.open_flags & kFuseOpenKillSuidgid) != 0, opened);
    if (error != 0) {
        nodes_.forget(entry.node, 1);
    }
    return error;
}

int PassthroughFs::tmpfile(const FuseCaller& caller, std::uint64_t parent, const FuseCreateIn& request,
                           NodeEntry& entry, OpenedFile& opened) noexcept {
    HostNodeRef directory;
    if (const int error = find_writable(parent, directory); error != 0) {
        return error;
    }
    const int flags = (static_cast<int>(request.flags) & (kKeptFlags | O_EXCL) & ~O_TRUNC) | O_TMPFILE;
    UniqueFd file;
    {
        const Owner owner = owner_of(caller);
        const HostIdentity identity(owner.uid, owner.gid);
        if (const int error = host_open_beneath(directory.get(), ".", flags, request.mode, file); error != 0) {
            return error;
        }
    }
    const int error = look_up_opened(file.get(), entry);
    return error != 0 ? error : keep_new(std::move(file), entry, opened);
}

int PassthroughFs::read(const FuseCaller& /*caller*/, std::uint64_t /*node*/, const FuseReadIn& request,
                        ReadAnswer& answer) noexcept {
    const auto file = files_.find(request.fh);
    if (file == nullptr) {
        return EBADF;
    }
    if (file->is_directory) {
        return EISDIR;
    }
    if (answer.accepts_file && answer.buffer.size() >= kLeastSplicedBytes) {
        struct stat found{};
        if (::fstat(file->get(), &found) == 0 && static_cast<std::uint64_t>(found.st_size) > request.offset) {
            const std::uint64_t left = static_cast<std::uint64_t>(found.st_size) - request.offset;
            answer.file_bytes = {file->fd, request.offset, std::min<std::uint64_t>(left, answer.buffer.size())};
            return 0;
        }
    }
    while (answer.length_bytes < answer.buffer.size()) {
        const ssize_t got =
            ::pread(file->get(), answer.buffer.data() + answer.length_bytes, answer.buffer.size() - answer.length_bytes,
                    static_cast<off_t>(request.offset + answer.length_bytes));
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return answer.length_bytes > 0 ? 0 : errno;
        }
        if (got == 0) {
            break;
        }
        answer.length_bytes += static_cast<std::size_t>(got);
    }
    return 0;
}

int PassthroughFs::write(const FuseCaller& /*caller*/, std::uint64_t /*node*/, const FuseWriteIn& request,
                         std::span<const std::byte> data, std::uint32_t& written_bytes) noexcept {
    const auto file = files_.find(request.fh);
    if (file == nullptr || file->is_directory) {
        return EBADF;
    }
    const HostKillsPrivileges kills(file->get(), (request.write_flags & kFuseWriteKillSuidgid) != 0);
    while (written_bytes < data.size()) {
        const ssize_t put = ::pwrite(file->get(), data.data() + written_bytes, data.size() - written_bytes,
                                     static_cast<off_t>(request.offset + written_bytes));
        if (put < 0 && errno == EINTR) {
            continue;
        }
        if (put <= 0) {
            return written_bytes > 0 ? 0 : put == 0 ? EIO : errno;
        }
        written_bytes += static_cast<std::uint32_t>(put);
    }
    return 0;
}

int PassthroughFs::flush(const FuseCaller& /*caller*/, std::uint64_t /*node*/, const FuseFlushIn& request) noexcept {
    if (!reports_close_errors_) {
        return ENOSYS;  // nothing to say there, and one request less for each close
    }
    const auto file = files_.find(request.fh);
    if (file == nullptr) {
        return EBADF;
    }
    const int duplicate = ::fcntl(file->get(), F_DUPFD_CLOEXEC, 0);
    return duplicate >= 0 && ::close(duplicate) == 0 ? 0 : errno;
}

int PassthroughFs::release(const FuseCaller& /*caller*/, std::uint64_t /*node*/,
                           const FuseReleaseIn& request) noexcept {
    const auto file = files_.take(request.fh);
    if (file == nullptr) {
        return EBADF;
    }
    nodes_.closed(file->node);
    return 0;
}

int PassthroughFs::fsync(const FuseCaller& /*caller*/, std::uint64_t /*node*/, std::uint64_t handle,
                         bool data_only) noexcept {
    const auto file = files_.find(handle);
    if (file == nullptr) {
        return EBADF;
    }
    return (data_only ? ::fdatasync(file->get()) : ::fsync(file->get())) == 0 ? 0 : errno;
}

int PassthroughFs::fallocate(const FuseCaller& /*caller*/, std::uint64_t /*node*/,
                             const FuseFallocateIn& request) noexcept {
    const auto file = files_.find(request.fh);
    if (file == nullptr) {
        return EBADF;
    }
    const int done = ::fallocate(file->get(), static_cast<int>(request.mode), static_cast<off_t>(request.offset),
                                 static_cast<off_t>(request.length));
    return done == 0 ? 0 : errno;
}

int PassthroughFs::lseek(const FuseCaller& /*caller*/, std::uint64_t /*node*/, const FuseLseekIn& request,
                         std::uint64_t& offset_bytes) noexcept {
    const auto file = files_.find(request.fh);
    if (file == nullptr || file->is_directory) {
        return EBADF;
    }
    const off_t found = ::lseek(file->get(), static_cast<off_t>(request.offset), static_cast<int>(request.whence));
    offset_bytes = found < 0 ? 0 : static_cast<std::uint64_t>(found);
    return found < 0 ? errno : 0;
}

int PassthroughFs::copy_file_range(const FuseCaller& /*caller*/, std::uint64_t /*node*/,
                                   const FuseCopyFileRangeIn& request, std::uint64_t& copied_bytes) noexcept {
    const auto from = files_.find(request.fh_in);
    const auto to = files_.find(request.fh_out);
    if (from == nullptr || to == nullptr) {
        return EBADF;
    }
    if (request.flags != 0) {
        return EINVAL;
    }
    return host_copy_file_range(from->get(), request.off_in, to->get(), request.off_out, request.len, copied_bytes);
}

}  // namespace vmthaw
