#include <cerrno>

#include "filesystem/memory_fs.hpp"
#include "filesystem/realtime.hpp"
#include "kernel/fuse.hpp"

namespace vmthaw {

bool MemoryFs::is_below(const MemoryNode& node, const MemoryNode& ancestor) const noexcept {
    const MemoryNode* at = &node;
    while (at->id != kFuseRootNode) {
        if (at->id == ancestor.id) {
            return true;
        }
        const auto up = nodes_.find(at->parent);
        if (up == nodes_.end()) {
            return false;  // below a directory that was removed
        }
        at = up->second.get();
    }
    return ancestor.id == kFuseRootNode;
}

int MemoryFs::exchange(MemoryNode& from, std::string_view name, MemoryNode& node, MemoryNode& to,
                       std::string_view new_name, MemoryNode& target) noexcept {
    if (target.is_directory() && is_below(from, target)) {
        return EINVAL;
    }
    from.entries.replace(name, target.id);
    to.entries.replace(new_name, node.id);
    if (node.is_directory()) {
        node.parent = to.id;
        --from.nlink;
        ++to.nlink;
    }
    if (target.is_directory()) {
        target.parent = from.id;
        --to.nlink;
        ++from.nlink;
    }
    const timespec now = realtime_now();
    from.touch_data(now);
    to.touch_data(now);
    node.ctime = target.ctime = now;
    return 0;
}

int MemoryFs::rename(const FuseCaller& /*caller*/, std::uint64_t parent, std::string_view name,
                     std::uint64_t new_parent, std::string_view new_name, std::uint32_t flags) noexcept {
    if ((flags & ~(kRenameNoReplace | kRenameExchange)) != 0) {
        return EINVAL;
    }
    return locked([&] {
        MemoryNode* from = nullptr;
        MemoryNode* node = nullptr;
        MemoryNode* to = nullptr;
        MemoryNode* target = nullptr;
        if (const int error = find_entry(parent, name, from, node); error != 0) {
            return error;
        }
        const int missing = find_entry(new_parent, new_name, to, target);
        if (missing != 0 && missing != ENOENT) {
            return missing;
        }
        if (to->nlink == 0) {
            return ENOENT;
        }
        if (node->is_directory() && is_below(*to, *node)) {
            return EINVAL;
        }
        if ((flags & kRenameExchange) != 0) {
            return missing != 0 ? missing : exchange(*from, name, *node, *to, new_name, *target);
        }
        if (target != nullptr) {
            if ((flags & kRenameNoReplace) != 0) {
                return EEXIST;
            }
            if (target == node) {
                return 0;  // two names of one file: both stay
            }
            if (node->is_directory() != target->is_directory()) {
                return node->is_directory() ? ENOTDIR : EISDIR;
            }
            if (!target->entries.empty()) {
                return ENOTEMPTY;
            }
        }
        const timespec now = realtime_now();
        if (target == nullptr) {
            to->entries.add(new_name, node->id);  // may throw: nothing has changed yet
        } else {
            to->entries.replace(new_name, node->id);
            --names_;
            target->ctime = now;
            target->nlink = target->is_directory() ? 0 : target->nlink - 1;
            to->nlink -= target->is_directory() ? 1 : 0;
            let_go(*target);
        }
        from->entries.remove(name);
        if (node->is_directory()) {
            node->parent = to->id;
            --from->nlink;
            ++to->nlink;
        }
        from->touch_data(now);
        to->touch_data(now);
        node->ctime = now;
        return 0;
    });
}

}  // namespace vmthaw
