#include <cerrno>

#include "filesystem/memory_fs.hpp"
#include "filesystem/realtime.hpp"

namespace vmthaw {

int MemoryFs::opendir(const FuseCaller& /*caller*/, std::uint64_t node, const FuseOpenIn& request,
                      OpenedFile& opened) noexcept {
    return locked([&] {
        MemoryNode* directory = nullptr;
        if (const int error = find_directory(node, directory); error != 0) {
            return error;
        }
        return open_handle(*directory, request.flags, true, opened);
    });
}

int MemoryFs::readdir(const FuseCaller& /*caller*/, std::uint64_t node, std::uint64_t handle, std::uint64_t offset,
                      bool plus, DirectoryWriter& writer) noexcept {
    return locked([&] {
        const auto open = handles_.find(handle);
        if (open == handles_.end() || open->second.node != node || !open->second.directory) {
            return EBADF;
        }
        MemoryNode& directory = *nodes_.find(node)->second;
        directory.atime = realtime_now();
        const auto add_plain = [&](std::string_view name, std::uint64_t ino, std::uint32_t mode, std::uint64_t next) {
            NodeEntry entry;
            entry.attr.ino = ino;
            entry.attr.mode = mode;
            return plus ? writer.add_entry(name, entry, next) : writer.add(name, ino, (mode & S_IFMT) >> 12U, next);
        };
        if (offset < 1 && !add_plain(".", directory.id, directory.mode, 1)) {
            return 0;
        }
        if (offset < 2 && !add_plain("..", directory.parent, directory.mode, 2)) {
            return 0;
        }
        const auto& entries = directory.entries.by_cookie();
        for (auto at = entries.upper_bound(offset); at != entries.end(); ++at) {
            MemoryNode& child = *nodes_.find(at->second.node)->second;
            if (!plus) {
                if (!add_plain(at->second.name, child.id, child.mode, at->first)) {
                    return 0;
                }
                continue;
            }
            NodeEntry entry;
            entry.node = child.id;
            entry.generation = 1;
            entry.attr = child.attributes();
            if (!writer.add_entry(at->second.name, entry, at->first)) {
                return 0;
            }
            give(child, entry);
        }
        return 0;
    });
}

int MemoryFs::releasedir(const FuseCaller& /*caller*/, std::uint64_t node, std::uint64_t handle) noexcept {
    return locked([&] { return close_handle(node, handle, true); });
}

int MemoryFs::fsyncdir(const FuseCaller& /*caller*/, std::uint64_t node, std::uint64_t handle,
                       bool /*data_only*/) noexcept {
    return locked([&] {
        const auto open = handles_.find(handle);
        return open == handles_.end() || open->second.node != node || !open->second.directory ? EBADF : 0;
    });
}

}  // namespace vmthaw
