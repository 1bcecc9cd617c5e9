#include "filesystem/path_nodes.hpp"

#include <algorithm>
#include <cerrno>
#include <new>
#include <ranges>
#include <vector>

#include "kernel/fuse.hpp"

namespace vmthaw {

PathNodes::PathNodes() : next_id_(kFuseRootNode + 1) { nodes_.emplace(kFuseRootNode, Node{}); }

int PathNodes::append_path(std::uint64_t node, std::string& path) const {
    std::vector<const std::string*> names;
    for (std::uint64_t at = node; at != kFuseRootNode;) {
        const auto found = nodes_.find(at);
        if (found == nodes_.end()) {
            return ESTALE;
        }
        names.push_back(&found->second.name);
        at = found->second.parent;
    }
    for (const std::string* const name : names | std::views::reverse) {
        path.append("/").append(*name);
    }
    return 0;
}

int PathNodes::path_of(std::uint64_t node, std::string& path) const noexcept {
    try {
        const std::lock_guard lock(mutex_);
        const auto found = nodes_.find(node);
        if (found == nodes_.end() || (found->second.lookups == 0 && node != kFuseRootNode)) {
            return ESTALE;
        }
        path.clear();
        const int error = append_path(node, path);
        if (path.empty()) {
            path.push_back('/');
        }
        return error;
    } catch (const std::bad_alloc&) {
        return ENOMEM;
    }
}

int PathNodes::path_of(std::uint64_t parent, std::string_view name, std::string& path) const noexcept {
    if (const int error = path_of(parent, path); error != 0) {
        return error;
    }
    try {
        path.append(path.size() == 1 ? "" : "/").append(name);
        return 0;
    } catch (const std::bad_alloc&) {
        return ENOMEM;
    }
}

std::uint64_t PathNodes::find(std::uint64_t parent, std::string_view name) const {
    const auto found = names_.find(Key(parent, name));
    return found == names_.end() ? 0 : found->second;
}

void PathNodes::attach(std::uint64_t node, std::uint64_t parent, std::string name) {
    names_.emplace(Key(parent, name), node);
    Node& attached = nodes_.find(node)->second;
    attached.parent = parent;
    attached.name = std::move(name);
    attached.attached = true;
    ++nodes_.find(parent)->second.children;
}

int PathNodes::give(std::uint64_t parent, std::string_view name, std::uint64_t& node) noexcept {
    try {
        const std::lock_guard lock(mutex_);
        if (!nodes_.contains(parent)) {
            return ESTALE;  // forgotten while the file system was asked
        }
        std::uint64_t id = find(parent, name);
        if (id == 0) {
            id = next_id_;
            nodes_.emplace(id, Node{});
            try {
                attach(id, parent, std::string(name));
            } catch (...) {
                nodes_.erase(id);
                throw;
            }
            ++next_id_;
        }
        if (nodes_.find(id)->second.lookups++ == 0) {
            ++held_;
        }
        node = id;
        return 0;
    } catch (const std::bad_alloc&) {
        return ENOMEM;
    }
}

bool PathNodes::is_below(std::uint64_t node, std::uint64_t ancestor) const noexcept {
    while (node != ancestor && node != kFuseRootNode) {
        node = nodes_.find(node)->second.parent;
    }
    return node == ancestor;
}

// The node goes when nothing holds it, and its parent may go with it.
void PathNodes::let_go(std::uint64_t node) noexcept {
    while (node != kFuseRootNode) {
        const auto found = nodes_.find(node);
        if (found == nodes_.end() || found->second.lookups != 0 || found->second.children != 0) {
            return;
        }
        const std::uint64_t parent = found->second.parent;
        if (found->second.attached) {
            names_.erase(names_.find(Key(parent, std::move(found->second.name))));
        }
        nodes_.erase(found);
        --nodes_.find(parent)->second.children;
        node = parent;
    }
}

void PathNodes::forget(std::uint64_t node, std::uint64_t count) noexcept {
    const std::lock_guard lock(mutex_);
    const auto found = nodes_.find(node);
    if (found == nodes_.end() || count == 0 || found->second.lookups == 0) {
        return;
    }
    found->second.lookups -= std::min(count, found->second.lookups);
    if (found->second.lookups == 0) {
        --held_;
        let_go(node);
    }
}

void PathNodes::removed(std::uint64_t parent, std::string_view name) noexcept {
    try {
        const std::lock_guard lock(mutex_);
        const auto found = names_.find(Key(parent, name));
        if (found != names_.end()) {
            const std::uint64_t id = found->second;
            names_.erase(found);
            nodes_.find(id)->second.attached = false;  // keeps its parent, for its last path
            let_go(id);
        }
    } catch (const std::bad_alloc&) {
        return;  // the name stays findable, and the next look-up corrects it
    }
}

void PathNodes::renamed(std::uint64_t parent, std::string_view name, std::uint64_t new_parent,
                        std::string_view new_name, bool exchanged) noexcept {
    try {
        const std::lock_guard lock(mutex_);
        const std::uint64_t moved = find(parent, name);
        const std::uint64_t target = find(new_parent, new_name);
        if (moved == target || !nodes_.contains(new_parent) || !nodes_.contains(parent) ||
            is_below(new_parent, moved) || (exchanged && is_below(parent, target))) {
            return;  // no file system may do the last two, and paths would have no end
        }
        std::string from(name);
        std::string to(new_name);
        const auto move = [this](std::uint64_t node, std::uint64_t old_parent, std::uint64_t there, std::string as) {
            attach(node, there, std::move(as));
            --nodes_.find(old_parent)->second.children;
        };
        // Out of the way first: neither may be found under its old name while the other gets it.
        names_.erase(Key(parent, from));
        names_.erase(Key(new_parent, to));
        if (target != 0) {
            nodes_.find(target)->second.attached = false;
        }
        if (moved != 0) {
            move(moved, parent, new_parent, std::move(to));
        }
        if (target != 0 && exchanged) {
            move(target, new_parent, parent, std::move(from));
        } else if (target != 0) {
            let_go(target);
        }
        let_go(parent);
    } catch (const std::bad_alloc&) {
        return;
    }
}

void PathNodes::clear() noexcept {
    const std::lock_guard lock(mutex_);
    names_.clear();
    std::erase_if(nodes_, [](const auto& entry) { return entry.first != kFuseRootNode; });
    nodes_.find(kFuseRootNode)->second = Node{};
    held_ = 0;
}

std::uint64_t PathNodes::held() const noexcept {
    const std::lock_guard lock(mutex_);
    return held_;
}

std::uint64_t PathNodes::size() const noexcept {
    const std::lock_guard lock(mutex_);
    return nodes_.size();
}

}  // namespace vmthaw
