#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "filesystem/file_system.hpp"
#include "filesystem/host_handles.hpp"
#include "filesystem/host_nodes.hpp"

namespace vmthaw {

// Whose files a client makes: the calling user's, those of one fixed user, or the server's own.
enum class OwnerPolicy : std::uint8_t { caller, fixed, server };

struct PassthroughOptions {
    bool read_only = false;
    OwnerPolicy owner = OwnerPolicy::caller;
    std::uint32_t uid = 0;  // OwnerPolicy::fixed
    std::uint32_t gid = 0;
    bool xattrs = true;
    bool caches_absence = false;       // the client may remember that a name is not there
    std::size_t most_descriptors = 0;  // of nodes; 0: half of RLIMIT_NOFILE
};

// A directory of the host. Every name is opened by itself, beneath the directory of its parent, and no symlink is ever
// followed here, so nothing that a client says leads out; a directory that the host moves out stays reachable for who
// has it. Modes and owners are the client's kernel to check (default_permissions): here the server's own rights count.
// Locks are held for look-ups in tables only, never for a system call that may wait. In a forked child it is inert: its
// destructor closes descriptors and nothing else.
class PassthroughFs final : public FileSystem {
public:
    // Throws SystemError (ENOENT, ENOTDIR, ENOSYS: older than Linux 5.6).
    explicit PassthroughFs(const std::string& directory, const PassthroughOptions& options = {});

    [[nodiscard]] int init(InitTerms& terms) noexcept override;
    void destroy() noexcept override;
    void forget(std::uint64_t node, std::uint64_t count) noexcept override;

    [[nodiscard]] int lookup(const FuseCaller& caller, std::uint64_t parent, std::string_view name,
                             NodeEntry& entry) noexcept override;
    [[nodiscard]] int getattr(const FuseCaller& caller, std::uint64_t node, std::uint64_t handle,
                              NodeAttributes& attributes) noexcept override;
    [[nodiscard]] int setattr(const FuseCaller& caller, std::uint64_t node, const FuseSetattrIn& change,
                              NodeAttributes& attributes) noexcept override;
    [[nodiscard]] int statx(const FuseCaller& caller, std::uint64_t node, std::uint64_t handle, std::uint32_t flags,
                            std::uint32_t mask, FuseStatx& stat) noexcept override;

    [[nodiscard]] int readlink(const FuseCaller& caller, std::uint64_t node, std::string& target) noexcept override;
    [[nodiscard]] int symlink(const FuseCaller& caller, std::uint64_t parent, std::string_view name,
                              std::string_view target, NodeEntry& entry) noexcept override;
    [[nodiscard]] int mknod(const FuseCaller& caller, std::uint64_t parent, std::string_view name,
                            const FuseMknodIn& request, NodeEntry& entry) noexcept override;
    [[nodiscard]] int mkdir(const FuseCaller& caller, std::uint64_t parent, std::string_view name,
                            const FuseMkdirIn& request, NodeEntry& entry) noexcept override;
    [[nodiscard]] int unlink(const FuseCaller& caller, std::uint64_t parent, std::string_view name) noexcept override;
    [[nodiscard]] int rmdir(const FuseCaller& caller, std::uint64_t parent, std::string_view name) noexcept override;
    [[nodiscard]] int rename(const FuseCaller& caller, std::uint64_t parent, std::string_view name,
                             std::uint64_t new_parent, std::string_view new_name,
                             std::uint32_t flags) noexcept override;
    [[nodiscard]] int link(const FuseCaller& caller, std::uint64_t node, std::uint64_t new_parent,
                           std::string_view new_name, NodeEntry& entry) noexcept override;

    [[nodiscard]] int open(const FuseCaller& caller, std::uint64_t node, const FuseOpenIn& request,
                           OpenedFile& opened) noexcept override;
    [[nodiscard]] int create(const FuseCaller& caller, std::uint64_t parent, std::string_view name,
                             const FuseCreateIn& request, NodeEntry& entry, OpenedFile& opened) noexcept override;
    [[nodiscard]] int tmpfile(const FuseCaller& caller, std::uint64_t parent, const FuseCreateIn& request,
                              NodeEntry& entry, OpenedFile& opened) noexcept override;
    [[nodiscard]] int read(const FuseCaller& caller, std::uint64_t node, const FuseReadIn& request,
                           ReadAnswer& answer) noexcept override;
    [[nodiscard]] int write(const FuseCaller& caller, std::uint64_t node, const FuseWriteIn& request,
                            std::span<const std::byte> data, std::uint32_t& written_bytes) noexcept override;
    [[nodiscard]] int flush(const FuseCaller& caller, std::uint64_t node, const FuseFlushIn& request) noexcept override;
    [[nodiscard]] int release(const FuseCaller& caller, std::uint64_t node,
                              const FuseReleaseIn& request) noexcept override;
    [[nodiscard]] int fsync(const FuseCaller& caller, std::uint64_t node, std::uint64_t handle,
                            bool data_only) noexcept override;
    [[nodiscard]] int fallocate(const FuseCaller& caller, std::uint64_t node,
                                const FuseFallocateIn& request) noexcept override;
    [[nodiscard]] int lseek(const FuseCaller& caller, std::uint64_t node, const FuseLseekIn& request,
                            std::uint64_t& offset_bytes) noexcept override;
    [[nodiscard]] int copy_file_range(const FuseCaller& caller, std::uint64_t node, const FuseCopyFileRangeIn& request,
                                      std::uint64_t& copied_bytes) noexcept override;

    [[nodiscard]] int opendir(const FuseCaller& caller, std::uint64_t node, const FuseOpenIn& request,
                              OpenedFile& opened) noexcept override;
    [[nodiscard]] int readdir(const FuseCaller& caller, std::uint64_t node, std::uint64_t handle, std::uint64_t offset,
                              bool plus, DirectoryWriter& writer) noexcept override;
    [[nodiscard]] int releasedir(const FuseCaller& caller, std::uint64_t node, std::uint64_t handle) noexcept override;
    [[nodiscard]] int fsyncdir(const FuseCaller& caller, std::uint64_t node, std::uint64_t handle,
                               bool data_only) noexcept override;

    [[nodiscard]] int setxattr(const FuseCaller& caller, std::uint64_t node, std::string_view name,
                               std::span<const std::byte> value, std::uint32_t flags) noexcept override;
    [[nodiscard]] int getxattr(const FuseCaller& caller, std::uint64_t node, std::string_view name,
                               std::string& value) noexcept override;
    [[nodiscard]] int listxattr(const FuseCaller& caller, std::uint64_t node, std::string& names) noexcept override;
    [[nodiscard]] int removexattr(const FuseCaller& caller, std::uint64_t node,
                                  std::string_view name) noexcept override;

    [[nodiscard]] int statfs(const FuseCaller& caller, std::uint64_t node, FuseStatfs& statfs) noexcept override;
    [[nodiscard]] int syncfs(const FuseCaller& caller, std::uint64_t node) noexcept override;

    [[nodiscard]] int dax_map(std::uint64_t node, std::uint64_t handle, std::uint64_t offset_bytes,
                              std::uint64_t length_bytes, std::uint32_t prot, Lease& lease) noexcept override;
    [[nodiscard]] int dax_unmap(const Lease& lease) noexcept override;
    [[nodiscard]] bool gives_regular_files() const noexcept override { return true; }

    [[nodiscard]] std::uint64_t held_nodes() const noexcept override { return nodes_.count(); }
    [[nodiscard]] std::uint64_t open_handles() const noexcept override { return files_.count(); }
    // Of nodes (the root's counted) and of leases; those of open handles are not counted.
    [[nodiscard]] std::uint64_t open_descriptors() const noexcept { return nodes_.descriptors() + leases_.count(); }
    [[nodiscard]] std::uint64_t leases() const noexcept { return leases_.count(); }
    // Whether descriptors beyond the bound are closed and found again by file handle.
    [[nodiscard]] bool evicts() const noexcept { return nodes_.evicts(); }
    [[nodiscard]] const std::string& directory() const noexcept { return directory_; }

private:
    struct Owner {
        std::uint32_t uid;
        std::uint32_t gid;
    };
    struct Root {
        UniqueFd path;
        UniqueFd readable;
        FuseStatx found;
    };

    PassthroughFs(std::string directory, const PassthroughOptions& options, Root root);

    [[nodiscard]] Owner owner_of(const FuseCaller& caller) const noexcept;
    [[nodiscard]] int find_directory(std::uint64_t node, HostNodeRef& ref) noexcept;
    [[nodiscard]] int find_writable(std::uint64_t node, HostNodeRef& ref) noexcept;
    [[nodiscard]] int look_up_in(const HostNodeRef& parent, const char* name, NodeEntry& entry) noexcept;
    [[nodiscard]] int look_up_fd(UniqueFd path, NodeEntry& entry) noexcept;
    [[nodiscard]] int look_up_found(UniqueFd path, const FuseStatx& found, NodeEntry& entry) noexcept;
    // What create() and tmpfile() just made: its node, and then its handle.
    [[nodiscard]] int look_up_new(const HostNodeRef& directory, const char* name, int file, NodeEntry& entry) noexcept;
    [[nodiscard]] int look_up_opened(int file, NodeEntry& entry) noexcept;
    void fill(const FuseStatx& found, FuseAttr& attr) const noexcept;
    [[nodiscard]] int attributes(int fd, FuseAttr& attr) const noexcept;
    [[nodiscard]] int change(const HostNodeRef& node, const HostHandle* file, const FuseSetattrIn& change) noexcept;
    [[nodiscard]] int open_node(std::uint64_t node, int flags, bool kills, OpenedFile& opened) noexcept;
    [[nodiscard]] int keep_new(UniqueFd file, const NodeEntry& entry, OpenedFile& opened) noexcept;
    [[nodiscard]] int find_directory_handle(std::uint64_t handle, std::shared_ptr<HostHandle>& file) noexcept;
    [[nodiscard]] bool add_entry(const HostHandle& directory, const HostDirent& entry, bool plus,
                                 DirectoryWriter& writer) noexcept;
    [[nodiscard]] bool allows_xattr(std::string_view name) const noexcept;

    std::string directory_;
    PassthroughOptions options_;
    bool reports_close_errors_ = false;
    int root_fd_;  // belongs to nodes_
    HostNodes nodes_;
    HostHandles files_;
    HostHandles leases_;
};

}  // namespace vmthaw
