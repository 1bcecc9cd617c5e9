#pragma once

#include <cerrno>
#include <cstdint>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <string_view>
#include <unordered_map>

#include "filesystem/file_system.hpp"
#include "filesystem/memory_node.hpp"

namespace vmthaw {

struct MemoryFsConfig {
    // Pages of files and values of extended attributes; ENOSPC beyond. 0: half of the machine's memory.
    std::uint64_t capacity_bytes = 0;
    // Names, and files without one that are open; ENOSPC beyond.
    std::uint64_t max_files = 1U << 20U;
    // Who owns the root, and its permissions.
    std::uint32_t root_uid = 0;
    std::uint32_t root_gid = 0;
    std::uint32_t root_mode = 0755;
};

// A file system in this process's memory, POSIX in what the client's kernel leaves to a server: it checks permissions
// itself (mount option default_permissions). Files survive a client's end, and go with the object. Any number of
// threads; one lock. A DAX mapping moves its file into a memfd. One for writing takes its part of the file from the
// capacity at once (ENOSPC); holes that a guest reads, and what it gets by later growth, count from the file's next
// change on.
class MemoryFs final : public FileSystem {
public:
    // Throws ArgumentError.
    explicit MemoryFs(const MemoryFsConfig& config = {});
    ~MemoryFs() override;

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

    [[nodiscard]] std::uint64_t held_nodes() const noexcept override;
    [[nodiscard]] std::uint64_t open_handles() const noexcept override;

    // For tests and statistics.
    [[nodiscard]] std::uint64_t files() const noexcept;  // all nodes, the root and unlinked ones included
    [[nodiscard]] std::uint64_t used_bytes() const noexcept;
    [[nodiscard]] std::uint64_t leases() const noexcept;

private:
    struct Handle {
        std::uint64_t node = 0;
        std::uint32_t flags = 0;
        bool directory = false;
    };

    // Runs `work` under the lock; ENOMEM instead of an exception.
    template <typename Work>
    [[nodiscard]] int locked(Work work) const noexcept {
        try {
            const std::lock_guard lock(mutex_);
            return work();
        } catch (const std::bad_alloc&) {
            return ENOMEM;
        }
    }

    // All of these: under the lock.
    [[nodiscard]] MemoryNode* find(std::uint64_t node) const noexcept;
    [[nodiscard]] int find_directory(std::uint64_t node, MemoryNode*& directory) const noexcept;
    [[nodiscard]] int find_entry(std::uint64_t parent, std::string_view name, MemoryNode*& directory,
                                 MemoryNode*& node) const noexcept;
    [[nodiscard]] int find_open(std::uint64_t node, std::uint64_t handle, bool to_write, MemoryNode*& found,
                                std::uint32_t* flags = nullptr) const noexcept;
    [[nodiscard]] int make_node(const FuseCaller& caller, std::uint64_t parent, std::string_view name,
                                std::uint32_t mode, std::uint32_t rdev, MemoryNode*& made);
    [[nodiscard]] int add_name(MemoryNode& directory, std::string_view name, MemoryNode& node);
    void remove_name(MemoryNode& directory, std::string_view name, MemoryNode& node) noexcept;
    [[nodiscard]] int open_handle(MemoryNode& node, std::uint32_t flags, bool directory, OpenedFile& opened);
    [[nodiscard]] int open_regular(MemoryNode& node, std::uint32_t flags, OpenedFile& opened);
    [[nodiscard]] int close_handle(std::uint64_t node, std::uint64_t handle, bool directory) noexcept;
    [[nodiscard]] int exchange(MemoryNode& from, std::string_view name, MemoryNode& node, MemoryNode& to,
                               std::string_view new_name, MemoryNode& target) noexcept;
    [[nodiscard]] bool is_below(const MemoryNode& node, const MemoryNode& ancestor) const noexcept;
    void give(MemoryNode& node, NodeEntry& entry) noexcept;
    void let_go(MemoryNode& node) noexcept;
    [[nodiscard]] std::uint64_t free_bytes() const noexcept {
        return used_bytes_ < capacity_bytes_ ? capacity_bytes_ - used_bytes_ : 0;
    }
    template <typename Change>
    [[nodiscard]] int change_data(MemoryNode& node, Change change) noexcept {
        const std::uint64_t before = node.data.used_bytes();
        const int error = change(node.data);
        used_bytes_ += node.data.used_bytes() - before;
        return error;
    }

    mutable std::mutex mutex_;
    std::uint64_t capacity_bytes_ = 0;
    std::uint64_t max_files_ = 0;
    std::uint64_t used_bytes_ = 0;
    std::uint64_t names_ = 0;
    std::uint64_t held_ = 0;  // nodes that a look-up counts, but for the root
    std::uint64_t next_id_ = 0;
    std::uint64_t next_handle_ = 1;
    std::uint64_t next_lease_ = 1;
    std::unordered_map<std::uint64_t, std::unique_ptr<MemoryNode>> nodes_;
    std::unordered_map<std::uint64_t, Handle> handles_;
    std::unordered_map<std::uint64_t, std::uint64_t> leases_;  // token: node
};

}  // namespace vmthaw
