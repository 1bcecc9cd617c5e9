#include <fcntl.h>

#include <cerrno>
#include <memory>
#include <utility>

#include "filesystem/memory_fs.hpp"
#include "filesystem/realtime.hpp"

namespace vmthaw {
namespace {

constexpr std::uint32_t kMaxLinks = 65000;

}  // namespace

int MemoryFs::add_name(MemoryNode& directory, std::string_view name, MemoryNode& node) {
    if (directory.nlink == 0) {
        return ENOENT;  // removed, and still open somewhere
    }
    if (directory.entries.find(name) != 0) {
        return EEXIST;
    }
    if (names_ >= max_files_) {
        return ENOSPC;
    }
    if (node.nlink >= kMaxLinks || (node.is_directory() && directory.nlink >= kMaxLinks)) {
        return EMLINK;
    }
    directory.entries.add(name, node.id);
    ++names_;
    const timespec now = realtime_now();
    directory.touch_data(now);
    node.ctime = now;
    if (node.is_directory()) {
        node.parent = directory.id;
        node.nlink = 2;
        ++directory.nlink;
    } else {
        ++node.nlink;
    }
    return 0;
}

void MemoryFs::remove_name(MemoryNode& directory, std::string_view name, MemoryNode& node) noexcept {
    directory.entries.remove(name);
    --names_;
    const timespec now = realtime_now();
    directory.touch_data(now);
    node.ctime = now;
    if (node.is_directory()) {
        node.nlink = 0;
        --directory.nlink;
    } else {
        --node.nlink;
    }
    let_go(node);
}

// An empty name makes a node without one.
int MemoryFs::make_node(const FuseCaller& caller, std::uint64_t parent, std::string_view name, std::uint32_t mode,
                        std::uint32_t rdev, MemoryNode*& made) {
    MemoryNode* directory = nullptr;
    if (const int error = find_directory(parent, directory); error != 0) {
        return error;
    }
    if (directory->nlink == 0) {
        return ENOENT;  // removed, and still open somewhere
    }
    if (nodes_.size() > max_files_) {
        return ENOSPC;
    }
    auto node = std::make_unique<MemoryNode>();
    node->id = next_id_++;
    node->mode = mode;
    node->uid = caller.uid;
    node->gid = caller.gid;
    if ((directory->mode & S_ISGID) != 0) {
        node->gid = directory->gid;
        node->mode |= node->is_directory() ? std::uint32_t{S_ISGID} : 0U;
    }
    node->rdev = S_ISCHR(mode) || S_ISBLK(mode) ? rdev : 0;
    node->atime = node->mtime = node->ctime = node->btime = realtime_now();
    made = node.get();
    const std::uint64_t id = node->id;
    nodes_.emplace(id, std::move(node));
    if (name.empty()) {
        return 0;
    }
    try {
        const int error = add_name(*directory, name, *made);
        if (error != 0) {
            nodes_.erase(id);
        }
        return error;
    } catch (...) {
        nodes_.erase(id);
        throw;
    }
}

int MemoryFs::mknod(const FuseCaller& caller, std::uint64_t parent, std::string_view name, const FuseMknodIn& request,
                    NodeEntry& entry) noexcept {
    const std::uint32_t type = request.mode & S_IFMT;
    if (type != S_IFREG && type != S_IFCHR && type != S_IFBLK && type != S_IFIFO && type != S_IFSOCK) {
        return type == S_IFDIR ? EPERM : EINVAL;
    }
    return locked([&] {
        MemoryNode* node = nullptr;
        const int error = make_node(caller, parent, name, type | (request.mode & 07777U), request.rdev, node);
        if (error == 0) {
            give(*node, entry);
        }
        return error;
    });
}

int MemoryFs::mkdir(const FuseCaller& caller, std::uint64_t parent, std::string_view name, const FuseMkdirIn& request,
                    NodeEntry& entry) noexcept {
    return locked([&] {
        MemoryNode* node = nullptr;
        const int error = make_node(caller, parent, name, S_IFDIR | (request.mode & 07777U), 0, node);
        if (error == 0) {
            give(*node, entry);
        }
        return error;
    });
}

int MemoryFs::symlink(const FuseCaller& caller, std::uint64_t parent, std::string_view name, std::string_view target,
                      NodeEntry& entry) noexcept {
    return locked([&] {
        std::string kept(target);
        MemoryNode* node = nullptr;
        const int error = make_node(caller, parent, name, S_IFLNK | 0777U, 0, node);
        if (error == 0) {
            node->target = std::move(kept);
            give(*node, entry);
        }
        return error;
    });
}

int MemoryFs::readlink(const FuseCaller& /*caller*/, std::uint64_t node, std::string& target) noexcept {
    return locked([&] {
        const MemoryNode* found = find(node);
        if (found == nullptr) {
            return ESTALE;
        }
        if (!S_ISLNK(found->mode)) {
            return EINVAL;
        }
        target = found->target;
        return 0;
    });
}

int MemoryFs::unlink(const FuseCaller& /*caller*/, std::uint64_t parent, std::string_view name) noexcept {
    return locked([&] {
        MemoryNode* directory = nullptr;
        MemoryNode* node = nullptr;
        if (const int error = find_entry(parent, name, directory, node); error != 0) {
            return error;
        }
        if (node->is_directory()) {
            return EISDIR;
        }
        remove_name(*directory, name, *node);
        return 0;
    });
}

int MemoryFs::rmdir(const FuseCaller& /*caller*/, std::uint64_t parent, std::string_view name) noexcept {
    return locked([&] {
        MemoryNode* directory = nullptr;
        MemoryNode* node = nullptr;
        if (const int error = find_entry(parent, name, directory, node); error != 0) {
            return error;
        }
        if (!node->is_directory()) {
            return ENOTDIR;
        }
        if (!node->entries.empty()) {
            return ENOTEMPTY;
        }
        remove_name(*directory, name, *node);
        return 0;
    });
}

int MemoryFs::link(const FuseCaller& /*caller*/, std::uint64_t node, std::uint64_t new_parent,
                   std::string_view new_name, NodeEntry& entry) noexcept {
    return locked([&] {
        MemoryNode* directory = nullptr;
        MemoryNode* found = find(node);
        if (found == nullptr) {
            return ESTALE;
        }
        if (const int error = find_directory(new_parent, directory); error != 0) {
            return error;
        }
        if (found->is_directory()) {
            return EPERM;
        }
        const int error = add_name(*directory, new_name, *found);
        if (error == 0) {
            give(*found, entry);
        }
        return error;
    });
}

int MemoryFs::create(const FuseCaller& caller, std::uint64_t parent, std::string_view name, const FuseCreateIn& request,
                     NodeEntry& entry, OpenedFile& opened) noexcept {
    return locked([&] {
        MemoryNode* directory = nullptr;
        MemoryNode* node = nullptr;
        int error = find_entry(parent, name, directory, node);
        const bool is_new = error == ENOENT;
        if (error == 0) {
            // Somebody else was faster than this client's look-up.
            error = (request.flags & O_EXCL) != 0 ? EEXIST : open_regular(*node, request.flags, opened);
        } else if (is_new) {
            error = make_node(caller, parent, name, S_IFREG | (request.mode & 07777U), 0, node);
            if (error == 0) {
                error = open_handle(*node, request.flags, false, opened);
                if (error != 0) {
                    remove_name(*find(parent), name, *node);
                }
            }
        }
        if (error == 0) {
            give(*node, entry);
        }
        return error;
    });
}

int MemoryFs::tmpfile(const FuseCaller& caller, std::uint64_t parent, const FuseCreateIn& request, NodeEntry& entry,
                      OpenedFile& opened) noexcept {
    return locked([&] {
        MemoryNode* node = nullptr;
        int error = make_node(caller, parent, {}, S_IFREG | (request.mode & 07777U), 0, node);
        if (error != 0) {
            return error;
        }
        error = open_handle(*node, request.flags, false, opened);
        if (error != 0) {
            let_go(*node);
            return error;
        }
        give(*node, entry);
        return 0;
    });
}

}  // namespace vmthaw
