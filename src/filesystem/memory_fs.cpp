#include "filesystem/memory_fs.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <string>
#include <utility>

#include "base/error.hpp"
#include "filesystem/realtime.hpp"
#include "kernel/fuse.hpp"

namespace vmthaw {
namespace {

constexpr std::uint64_t kMaxHandles = 1U << 20U;

std::uint64_t half_of_memory() {
    const long pages = ::sysconf(_SC_PHYS_PAGES);
    const long page_bytes = ::sysconf(_SC_PAGESIZE);
    return static_cast<std::uint64_t>(std::max(pages, 2L)) / 2 *
           static_cast<std::uint64_t>(std::max(page_bytes, 4096L));
}

}  // namespace

MemoryFs::MemoryFs(const MemoryFsConfig& config)
    : capacity_bytes_(config.capacity_bytes != 0 ? config.capacity_bytes : half_of_memory()),
      max_files_(config.max_files),
      next_id_(kFuseRootNode) {
    if (config.max_files == 0) {
        throw ArgumentError("max_files is 0: a file system needs room for its root");
    }
    if ((config.root_mode & ~07777U) != 0) {
        throw ArgumentError("root_mode is " + std::to_string(config.root_mode) + "; it has permission bits only");
    }
    auto root = std::make_unique<MemoryNode>();
    root->id = next_id_++;
    root->parent = root->id;
    root->mode = S_IFDIR | config.root_mode;
    root->uid = config.root_uid;
    root->gid = config.root_gid;
    root->nlink = 2;
    root->atime = root->mtime = root->ctime = root->btime = realtime_now();
    nodes_.emplace(root->id, std::move(root));
}

MemoryFs::~MemoryFs() = default;

int MemoryFs::init(InitTerms& terms) noexcept {
    terms.wanted |= kFuseExportSupport;
    return 0;
}

void MemoryFs::destroy() noexcept {
    const std::lock_guard lock(mutex_);
    for (const auto& [number, handle] : handles_) {
        --nodes_.find(handle.node)->second->holders;
    }
    handles_.clear();
    for (auto node = nodes_.begin(); node != nodes_.end();) {
        MemoryNode& held = *(node++)->second;
        held.lookups = 0;
        let_go(held);
    }
    held_ = 0;
}

void MemoryFs::forget(std::uint64_t node, std::uint64_t count) noexcept {
    const std::lock_guard lock(mutex_);
    MemoryNode* found = find(node);
    if (found == nullptr || count == 0 || found->lookups == 0) {
        return;
    }
    found->lookups -= std::min(count, found->lookups);
    if (found->lookups == 0) {
        held_ -= node == kFuseRootNode ? 0 : 1;
        let_go(*found);
    }
}

// A node that exists and that the client does not hold is as little there as one that never was.
MemoryNode* MemoryFs::find(std::uint64_t node) const noexcept {
    const auto found = nodes_.find(node);
    if (found == nodes_.end() || (found->second->lookups == 0 && node != kFuseRootNode)) {
        return nullptr;
    }
    return found->second.get();
}

int MemoryFs::find_directory(std::uint64_t node, MemoryNode*& directory) const noexcept {
    directory = find(node);
    if (directory == nullptr) {
        return ESTALE;
    }
    return directory->is_directory() ? 0 : ENOTDIR;
}

int MemoryFs::find_entry(std::uint64_t parent, std::string_view name, MemoryNode*& directory,
                         MemoryNode*& node) const noexcept {
    if (const int error = find_directory(parent, directory); error != 0) {
        return error;
    }
    const std::uint64_t id = directory->entries.find(name);
    if (id == 0) {
        return ENOENT;
    }
    node = nodes_.find(id)->second.get();
    return 0;
}

void MemoryFs::give(MemoryNode& node, NodeEntry& entry) noexcept {
    if (node.lookups++ == 0 && node.id != kFuseRootNode) {
        ++held_;
    }
    entry.node = node.id;
    entry.generation = 1;  // ids are never used again
    entry.attr = node.attributes();
}

// The node goes with the last that holds it.
void MemoryFs::let_go(MemoryNode& node) noexcept {
    if (node.nlink != 0 || node.lookups != 0 || node.holders != 0) {
        return;
    }
    used_bytes_ -= node.data.used_bytes();
    for (const auto& [name, value] : node.xattrs) {
        used_bytes_ -= name.size() + value.size();
    }
    nodes_.erase(node.id);
}

int MemoryFs::lookup(const FuseCaller& /*caller*/, std::uint64_t parent, std::string_view name,
                     NodeEntry& entry) noexcept {
    return locked([&] {
        MemoryNode* directory = nullptr;
        MemoryNode* node = nullptr;
        if (name == "." || name == "..") {
            if (const int error = find_directory(parent, directory); error != 0) {
                return error;
            }
            const auto up = nodes_.find(name == "." ? parent : directory->parent);
            if (up == nodes_.end()) {
                return ENOENT;
            }
            node = up->second.get();
        } else if (const int error = find_entry(parent, name, directory, node); error != 0) {
            return error;
        }
        give(*node, entry);
        return 0;
    });
}

int MemoryFs::open_handle(MemoryNode& node, std::uint32_t flags, bool directory, OpenedFile& opened) {
    if (handles_.size() >= kMaxHandles) {
        return ENFILE;
    }
    handles_.emplace(next_handle_, Handle{node.id, flags, directory});
    opened.handle = next_handle_++;
    ++node.holders;
    return 0;
}

int MemoryFs::close_handle(std::uint64_t node, std::uint64_t handle, bool directory) noexcept {
    const auto found = handles_.find(handle);
    if (found == handles_.end() || found->second.node != node || found->second.directory != directory) {
        return EBADF;
    }
    handles_.erase(found);
    MemoryNode& held = *nodes_.find(node)->second;
    --held.holders;
    let_go(held);
    return 0;
}

int MemoryFs::find_open(std::uint64_t node, std::uint64_t handle, bool to_write, MemoryNode*& found,
                        std::uint32_t* flags) const noexcept {
    const auto open = handles_.find(handle);
    if (open == handles_.end() || open->second.node != node || open->second.directory) {
        return EBADF;
    }
    // Reading stays allowed: a client that caches writes reads what surrounds them by the same handle.
    if (to_write && (open->second.flags & O_ACCMODE) == O_RDONLY) {
        return EBADF;
    }
    found = nodes_.find(node)->second.get();
    if (flags != nullptr) {
        *flags = open->second.flags;
    }
    return 0;
}

int MemoryFs::statfs(const FuseCaller& /*caller*/, std::uint64_t /*node*/, FuseStatfs& statfs) noexcept {
    return locked([&] {
        statfs.bsize = statfs.frsize = MemoryData::kPage_bytes;
        statfs.blocks = capacity_bytes_ / MemoryData::kPage_bytes;
        statfs.bfree = statfs.bavail = free_bytes() / MemoryData::kPage_bytes;
        statfs.files = max_files_;
        statfs.ffree = max_files_ - std::min(names_, max_files_);
        statfs.namelen = 255;
        return 0;
    });
}

int MemoryFs::syncfs(const FuseCaller& /*caller*/, std::uint64_t /*node*/) noexcept { return 0; }

std::uint64_t MemoryFs::held_nodes() const noexcept {
    const std::lock_guard lock(mutex_);
    return held_;
}

std::uint64_t MemoryFs::open_handles() const noexcept {
    const std::lock_guard lock(mutex_);
    return handles_.size();
}

std::uint64_t MemoryFs::files() const noexcept {
    const std::lock_guard lock(mutex_);
    return nodes_.size();
}

std::uint64_t MemoryFs::used_bytes() const noexcept {
    const std::lock_guard lock(mutex_);
    return used_bytes_;
}

std::uint64_t MemoryFs::leases() const noexcept {
    const std::lock_guard lock(mutex_);
    return leases_.size();
}

}  // namespace vmthaw
