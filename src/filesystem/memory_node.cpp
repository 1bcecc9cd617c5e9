#include "filesystem/memory_node.hpp"

#include <iterator>

namespace vmthaw {

std::uint64_t MemoryDirectory::find(std::string_view name) const noexcept {
    const auto found = cookies_.find(name);
    return found == cookies_.end() ? 0 : by_cookie_.find(found->second)->second.node;
}

void MemoryDirectory::add(std::string_view name, std::uint64_t node) {
    const auto placed = by_cookie_.emplace_hint(by_cookie_.end(), next_cookie_, Entry{std::string(name), node});
    try {
        cookies_.emplace(name, next_cookie_);
    } catch (...) {
        by_cookie_.erase(placed);
        throw;
    }
    ++next_cookie_;
}

void MemoryDirectory::replace(std::string_view name, std::uint64_t node) noexcept {
    by_cookie_.find(cookies_.find(name)->second)->second.node = node;
}

void MemoryDirectory::remove(std::string_view name) noexcept {
    const auto found = cookies_.find(name);
    by_cookie_.erase(found->second);
    cookies_.erase(found);
}

FuseAttr MemoryNode::attributes() const noexcept {
    FuseAttr attr;
    attr.ino = id;
    attr.size = data.size();
    if (is_directory()) {
        attr.size = entries.by_cookie().size() * 32;
    } else if (S_ISLNK(mode)) {
        attr.size = target.size();
    }
    attr.blocks = data.used_bytes() / 512;
    attr.atime = static_cast<std::uint64_t>(atime.tv_sec);
    attr.mtime = static_cast<std::uint64_t>(mtime.tv_sec);
    attr.ctime = static_cast<std::uint64_t>(ctime.tv_sec);
    attr.atimensec = static_cast<std::uint32_t>(atime.tv_nsec);
    attr.mtimensec = static_cast<std::uint32_t>(mtime.tv_nsec);
    attr.ctimensec = static_cast<std::uint32_t>(ctime.tv_nsec);
    attr.mode = mode;
    attr.nlink = nlink;
    attr.uid = uid;
    attr.gid = gid;
    attr.rdev = rdev;
    attr.blksize = MemoryData::kPage_bytes;
    return attr;
}

void MemoryNode::drop_set_id_bits() noexcept {
    if (is_directory()) {
        return;
    }
    mode &= ~std::uint32_t{S_ISUID};
    if ((mode & S_IXGRP) != 0) {
        mode &= ~std::uint32_t{S_ISGID};
    }
}

}  // namespace vmthaw
