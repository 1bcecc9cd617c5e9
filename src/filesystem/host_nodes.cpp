#include "filesystem/host_nodes.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <exception>
#include <utility>

#include "kernel/fuse.hpp"

namespace vmthaw {
namespace {

constexpr std::size_t kEvictionTries = 16;

std::uint64_t device_of(const FuseStatx& found) noexcept {
    return (std::uint64_t{found.dev_major} << 32U) | found.dev_minor;
}

}  // namespace

std::size_t HostNodes::KeyHash::operator()(const Key& key) const noexcept {
    constexpr std::uint64_t kGolden = 0x9e3779b97f4a7c15;
    std::uint64_t mixed = (key.inode + key.device * kGolden) ^ (key.mount << 40U);
    mixed ^= mixed >> 29U;
    return mixed * kGolden;
}

HostNodes::Key HostNodes::key_of(const FuseStatx& found) noexcept {
    return {.device = device_of(found), .inode = found.ino, .mount = mount_id_of(found)};
}

HostNodes::HostNodes(UniqueFd root, UniqueFd mount, const FuseStatx& found, std::size_t most_descriptors)
    : mount_(std::move(mount)),
      root_key_(key_of(found)),
      most_descriptors_(std::max<std::size_t>(most_descriptors, 8)),
      next_id_(kFuseRootNode + 1) {
    HostFileHandle handle;
    UniqueFd again;
    evicts_ = host_handle_of(root.get(), handle) == 0 && host_open_handle(mount_.get(), handle, O_PATH, again) == 0;
    Node& node = nodes_[kFuseRootNode];
    node.id = kFuseRootNode;
    node.key = root_key_;
    node.type = S_IFDIR;
    node.look_ups = 1;
    node.opens = 1;
    by_key_[node.key] = node.id;
    hold(node, std::make_shared<const UniqueFd>(std::move(root)));
}

void HostNodes::hold(Node& node, std::shared_ptr<const UniqueFd> fd) {
    node.used = used_.insert(used_.end(), &node);
    node.fd = std::move(fd);
    node.handle.clear();
}

void HostNodes::drop(Node& node) noexcept {
    if (node.fd != nullptr) {
        used_.erase(node.used);
        node.fd.reset();
    }
}

bool HostNodes::evict(Node& node) noexcept {
    try {
        if (node.opens != 0 || node.key.mount != root_key_.mount || node.key.device != root_key_.device ||
            host_handle_of(node.fd->get(), node.handle) != 0) {
            return false;
        }
    } catch (const std::exception&) {
        return false;
    }
    drop(node);
    return true;
}

void HostNodes::evict_until(std::size_t most) noexcept {
    for (std::size_t tries = 0; evicts_ && used_.size() > most && tries < kEvictionTries; ++tries) {
        Node& oldest = *used_.front();
        if (!evict(oldest)) {
            used_.splice(used_.end(), used_, oldest.used);
        }
    }
}

int HostNodes::find(std::uint64_t id, HostNodeRef& ref) noexcept {
    try {
        std::unique_lock lock(mutex_);
        const auto found = nodes_.find(id);
        if (found == nodes_.end()) {
            return ESTALE;
        }
        Node& node = found->second;
        if (node.fd == nullptr) {
            return reopen(lock, id, ref);
        }
        if (node.used != std::prev(used_.end())) {
            used_.splice(used_.end(), used_, node.used);
        }
        ref.fd = node.fd;
        ref.type = node.type;
        return 0;
    } catch (const std::exception&) {
        return ENOMEM;
    }
}

int HostNodes::reopen(std::unique_lock<std::mutex>& lock, std::uint64_t id, HostNodeRef& ref) {
    const HostFileHandle handle = nodes_.at(id).handle;
    lock.unlock();  // the disk may be asked
    UniqueFd fd;
    if (const int error = host_open_handle(mount_.get(), handle, O_PATH, fd); error != 0) {
        return error;
    }
    lock.lock();
    const auto found = nodes_.find(id);
    if (found == nodes_.end()) {
        return ESTALE;
    }
    Node& node = found->second;
    if (node.fd == nullptr) {
        evict_until(most_descriptors_ - 1);
        hold(node, std::make_shared<const UniqueFd>(std::move(fd)));
    }
    ref.fd = node.fd;
    ref.type = node.type;
    return 0;
}

std::uint64_t HostNodes::look_up_known(const FuseStatx& found) noexcept {
    const std::lock_guard lock(mutex_);
    const auto known = by_key_.find(key_of(found));
    if (known == by_key_.end()) {
        return 0;
    }
    Node& node = nodes_.at(known->second);
    if (node.fd == nullptr) {
        return 0;  // the number may be another file's by now
    }
    ++node.look_ups;
    return node.id;
}

int HostNodes::look_up(UniqueFd fd, const FuseStatx& found, std::uint64_t& id) noexcept {
    try {
        return insert(std::move(fd), found, id);
    } catch (const std::exception&) {
        return ENOMEM;
    }
}

int HostNodes::insert(UniqueFd fd, const FuseStatx& found, std::uint64_t& id) {
    const Key key = key_of(found);
    HostFileHandle handle;
    const std::lock_guard lock(mutex_);
    if (const auto known = by_key_.find(key); known != by_key_.end()) {
        Node& node = nodes_.at(known->second);
        if (node.fd == nullptr && host_handle_of(fd.get(), handle) == 0 && handle == node.handle) {
            evict_until(most_descriptors_ - 1);
            hold(node, std::make_shared<const UniqueFd>(std::move(fd)));
            ++node.look_ups;
            id = node.id;
            return 0;
        }
        if (node.fd != nullptr) {
            ++node.look_ups;
            id = node.id;
            return 0;
        }
        by_key_.erase(known);  // that file has gone, and its number is this one's now
    }
    evict_until(most_descriptors_ - 1);
    if (used_.size() >= most_descriptors_ && !evicts_) {
        return ENFILE;
    }
    Node& node = nodes_[next_id_];
    node.id = next_id_++;
    node.key = key;
    node.type = found.mode & S_IFMT;
    node.look_ups = 1;
    hold(node, std::make_shared<const UniqueFd>(std::move(fd)));
    by_key_[key] = node.id;
    id = node.id;
    return 0;
}

void HostNodes::look_up_again(std::uint64_t id) noexcept {
    const std::lock_guard lock(mutex_);
    if (const auto found = nodes_.find(id); found != nodes_.end()) {
        ++found->second.look_ups;
    }
}

void HostNodes::remove(std::uint64_t id) noexcept {
    const auto found = nodes_.find(id);
    drop(found->second);
    if (const auto key = by_key_.find(found->second.key); key != by_key_.end() && key->second == id) {
        by_key_.erase(key);
    }
    nodes_.erase(found);
}

void HostNodes::forget(std::uint64_t id, std::uint64_t count) noexcept {
    const std::lock_guard lock(mutex_);
    const auto found = nodes_.find(id);
    if (found == nodes_.end() || id == kFuseRootNode) {
        return;
    }
    Node& node = found->second;
    node.look_ups -= std::min(count, node.look_ups);
    if (node.look_ups == 0) {
        remove(id);
    }
}

void HostNodes::opened(std::uint64_t id) noexcept {
    const std::lock_guard lock(mutex_);
    if (const auto found = nodes_.find(id); found != nodes_.end()) {
        ++found->second.opens;
    }
}

void HostNodes::closed(std::uint64_t id) noexcept {
    const std::lock_guard lock(mutex_);
    if (const auto found = nodes_.find(id); found != nodes_.end() && found->second.opens > 0) {
        --found->second.opens;
    }
}

void HostNodes::clear() noexcept {
    const std::lock_guard lock(mutex_);
    for (auto node = nodes_.begin(); node != nodes_.end();) {
        if (node->first == kFuseRootNode) {
            ++node;
            continue;
        }
        drop(node->second);
        node = nodes_.erase(node);
    }
    std::erase_if(by_key_, [](const auto& entry) { return entry.second != kFuseRootNode; });
}

std::uint64_t HostNodes::shown_inode(const FuseStatx& found) const noexcept {
    const Key key = key_of(found);
    if (key.device == root_key_.device && key.mount == root_key_.mount) {
        return found.ino;
    }
    constexpr unsigned kUpperBits = 48;
    const std::uint64_t mixed = KeyHash()({.device = key.device, .inode = 0, .mount = key.mount});
    return found.ino ^ ((mixed | 1U) << kUpperBits);
}

std::size_t HostNodes::count() const noexcept {
    const std::lock_guard lock(mutex_);
    return nodes_.size() - 1;
}

std::size_t HostNodes::descriptors() const noexcept {
    const std::lock_guard lock(mutex_);
    return used_.size();
}

}  // namespace vmthaw
