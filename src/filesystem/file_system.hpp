#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "filesystem/dax_backend.hpp"
#include "filesystem/directory_writer.hpp"
#include "filesystem/file_system_values.hpp"
#include "fuse_protocol/fuse_attributes.hpp"
#include "fuse_protocol/fuse_requests.hpp"

namespace vmthaw {

// What a FUSE server serves: one method per request, called by several threads at once. Each answers 0 or a positive
// errno and throws nothing; what a file system leaves out answers ENOSYS, which the kernel takes as "never ask again"
// where it has a way of its own (access, flush, fsync, lseek, statx, ...).
// Node ids and handles come from a client that nobody trusts: one that was never given is ESTALE, a handle EBADF.
// Names are checked: 1 to 255 bytes, no '/' and no NUL, neither "." nor ".." but in lookup; a NUL follows name.data().
// Look-up counts are exact: each NodeEntry that leaves with success counts one, forget() takes back, and after
// destroy() no node but the root and no handle is held.
class FileSystem : public DaxBackend {
public:
    // Again after a destroy(), or without one (the client began anew): nothing of the old client's is held then.
    [[nodiscard]] virtual int init(InitTerms& terms) noexcept;
    // The client has gone: forgets every look-up and closes every handle, those of requests not yet answered included.
    virtual void destroy() noexcept {}
    // More than was given counts as all of it.
    virtual void forget(std::uint64_t node, std::uint64_t count) noexcept;
    // The caller of request `unique`, which may come later only, no longer waits: end it early with EINTR if that is
    // possible. Answers 0 or ENOSYS ("never tell me"). Not EAGAIN ("say it again"): Linux hears that only by the
    // descriptor that has read the request, and each reader has its own.
    [[nodiscard]] virtual int interrupt(std::uint64_t unique) noexcept;

    [[nodiscard]] virtual int lookup(const FuseCaller& caller, std::uint64_t parent, std::string_view name,
                                     NodeEntry& entry) noexcept;
    // `handle` is kFuseNoHandle where the client named none; here and below.
    [[nodiscard]] virtual int getattr(const FuseCaller& caller, std::uint64_t node, std::uint64_t handle,
                                      NodeAttributes& attributes) noexcept;
    // `change.valid` says which fields count (kFattr...); change.fh only with kFattrHandle.
    [[nodiscard]] virtual int setattr(const FuseCaller& caller, std::uint64_t node, const FuseSetattrIn& change,
                                      NodeAttributes& attributes) noexcept;
    // ENOSYS: the server asks getattr instead.
    [[nodiscard]] virtual int statx(const FuseCaller& caller, std::uint64_t node, std::uint64_t handle,
                                    std::uint32_t flags, std::uint32_t mask, FuseStatx& stat) noexcept;
    [[nodiscard]] virtual int access(const FuseCaller& caller, std::uint64_t node, std::uint32_t mask) noexcept;

    // Modes come with the umask taken off, unless init() asked for kFuseDontMask.
    [[nodiscard]] virtual int readlink(const FuseCaller& caller, std::uint64_t node, std::string& target) noexcept;
    [[nodiscard]] virtual int symlink(const FuseCaller& caller, std::uint64_t parent, std::string_view name,
                                      std::string_view target, NodeEntry& entry) noexcept;
    [[nodiscard]] virtual int mknod(const FuseCaller& caller, std::uint64_t parent, std::string_view name,
                                    const FuseMknodIn& request, NodeEntry& entry) noexcept;
    [[nodiscard]] virtual int mkdir(const FuseCaller& caller, std::uint64_t parent, std::string_view name,
                                    const FuseMkdirIn& request, NodeEntry& entry) noexcept;
    [[nodiscard]] virtual int unlink(const FuseCaller& caller, std::uint64_t parent, std::string_view name) noexcept;
    [[nodiscard]] virtual int rmdir(const FuseCaller& caller, std::uint64_t parent, std::string_view name) noexcept;
    // `flags`: kRename..., 0 for the plain call.
    [[nodiscard]] virtual int rename(const FuseCaller& caller, std::uint64_t parent, std::string_view name,
                                     std::uint64_t new_parent, std::string_view new_name, std::uint32_t flags) noexcept;
    [[nodiscard]] virtual int link(const FuseCaller& caller, std::uint64_t node, std::uint64_t new_parent,
                                   std::string_view new_name, NodeEntry& entry) noexcept;

    [[nodiscard]] virtual int open(const FuseCaller& caller, std::uint64_t node, const FuseOpenIn& request,
                                   OpenedFile& opened) noexcept;
    [[nodiscard]] virtual int create(const FuseCaller& caller, std::uint64_t parent, std::string_view name,
                                     const FuseCreateIn& request, NodeEntry& entry, OpenedFile& opened) noexcept;
    // An open file without a name in `parent`'s file system.
    [[nodiscard]] virtual int tmpfile(const FuseCaller& caller, std::uint64_t parent, const FuseCreateIn& request,
                                      NodeEntry& entry, OpenedFile& opened) noexcept;
    // At most answer.buffer.size() bytes; fewer only at the end of the file. offset + size is within i64 here and in
    // write, fallocate and copy_file_range.
    [[nodiscard]] virtual int read(const FuseCaller& caller, std::uint64_t node, const FuseReadIn& request,
                                   ReadAnswer& answer) noexcept;
    // data.size() is request.size.
    [[nodiscard]] virtual int write(const FuseCaller& caller, std::uint64_t node, const FuseWriteIn& request,
                                    std::span<const std::byte> data, std::uint32_t& written_bytes) noexcept;
    [[nodiscard]] virtual int flush(const FuseCaller& caller, std::uint64_t node, const FuseFlushIn& request) noexcept;
    // The handle is gone whatever is answered.
    [[nodiscard]] virtual int release(const FuseCaller& caller, std::uint64_t node,
                                      const FuseReleaseIn& request) noexcept;
    [[nodiscard]] virtual int fsync(const FuseCaller& caller, std::uint64_t node, std::uint64_t handle,
                                    bool data_only) noexcept;
    // `mode`: FALLOC_FL_...
    [[nodiscard]] virtual int fallocate(const FuseCaller& caller, std::uint64_t node,
                                        const FuseFallocateIn& request) noexcept;
    [[nodiscard]] virtual int lseek(const FuseCaller& caller, std::uint64_t node, const FuseLseekIn& request,
                                    std::uint64_t& offset_bytes) noexcept;
    [[nodiscard]] virtual int copy_file_range(const FuseCaller& caller, std::uint64_t node,
                                              const FuseCopyFileRangeIn& request, std::uint64_t& copied_bytes) noexcept;

    [[nodiscard]] virtual int opendir(const FuseCaller& caller, std::uint64_t node, const FuseOpenIn& request,
                                      OpenedFile& opened) noexcept;
    // Entries from `offset` on (0, or some entry's next_offset); `plus`: by add_entry, each counting a look-up.
    [[nodiscard]] virtual int readdir(const FuseCaller& caller, std::uint64_t node, std::uint64_t handle,
                                      std::uint64_t offset, bool plus, DirectoryWriter& writer) noexcept;
    [[nodiscard]] virtual int releasedir(const FuseCaller& caller, std::uint64_t node, std::uint64_t handle) noexcept;
    [[nodiscard]] virtual int fsyncdir(const FuseCaller& caller, std::uint64_t node, std::uint64_t handle,
                                       bool data_only) noexcept;

    // `flags`: XATTR_CREATE, XATTR_REPLACE.
    [[nodiscard]] virtual int setxattr(const FuseCaller& caller, std::uint64_t node, std::string_view name,
                                       std::span<const std::byte> value, std::uint32_t flags) noexcept;
    // The server cuts and measures: the whole value, and the names, each with its NUL.
    [[nodiscard]] virtual int getxattr(const FuseCaller& caller, std::uint64_t node, std::string_view name,
                                       std::string& value) noexcept;
    [[nodiscard]] virtual int listxattr(const FuseCaller& caller, std::uint64_t node, std::string& names) noexcept;
    [[nodiscard]] virtual int removexattr(const FuseCaller& caller, std::uint64_t node, std::string_view name) noexcept;

    [[nodiscard]] virtual int statfs(const FuseCaller& caller, std::uint64_t node, FuseStatfs& statfs) noexcept;
    [[nodiscard]] virtual int syncfs(const FuseCaller& caller, std::uint64_t node) noexcept;

    [[nodiscard]] int dax_map(std::uint64_t node, std::uint64_t handle, std::uint64_t offset_bytes,
                              std::uint64_t length_bytes, std::uint32_t prot, Lease& lease) noexcept override;
    [[nodiscard]] int dax_unmap(const Lease& lease) noexcept override;

    // Nodes that the client holds, the root not counted, and handles that are open: 0 and 0 after destroy().
    [[nodiscard]] virtual std::uint64_t held_nodes() const noexcept { return 0; }
    [[nodiscard]] virtual std::uint64_t open_handles() const noexcept { return 0; }
};

}  // namespace vmthaw
