#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "base/unique_fd.hpp"
#include "filesystem/host_calls.hpp"

namespace vmthaw {

// A descriptor of a node, open as long as somebody holds it, though the table has closed its own meanwhile.
struct HostNodeRef {
    std::shared_ptr<const UniqueFd> fd;  // O_PATH
    std::uint32_t type = 0;              // S_IFMT bits of the mode

    [[nodiscard]] int get() const noexcept { return fd->get(); }
};

// The files that a client knows, by node id: one node for each (device, inode, mount), with an exact look-up count and
// an O_PATH descriptor. Ids are never given twice, so the generation is always 0. Any thread.
// At most `most_descriptors` stay open: with CAP_DAC_READ_SEARCH the least recently used is closed and found again by
// its file handle (nodes of the root's mount, and none that is open); without it one node too many is ENFILE.
class HostNodes {
public:
    // `root` is the directory (O_PATH), `mount` any readable descriptor of the same mount.
    HostNodes(UniqueFd root, UniqueFd mount, const FuseStatx& found, std::size_t most_descriptors);

    // 0, ESTALE (never given, forgotten, or the file has gone), or why it cannot be opened again.
    [[nodiscard]] int find(std::uint64_t id, HostNodeRef& ref) noexcept;
    // Counts a look-up of the node, if its descriptor proves that it is the same file. 0 otherwise.
    [[nodiscard]] std::uint64_t look_up_known(const FuseStatx& found) noexcept;
    // Counts a look-up of the file behind `fd` (O_PATH), which may become a node. 0, ENFILE or ENOMEM.
    [[nodiscard]] int look_up(UniqueFd fd, const FuseStatx& found, std::uint64_t& id) noexcept;
    void forget(std::uint64_t id, std::uint64_t count) noexcept;
    // One more look-up of a node that is there.
    void look_up_again(std::uint64_t id) noexcept;
    // An open file keeps its node's descriptor, since it may have no name any more.
    void opened(std::uint64_t id) noexcept;
    void closed(std::uint64_t id) noexcept;
    // Everything but the root.
    void clear() noexcept;

    // The inode number that the client sees: files of other mounts must not look like hard links of ours.
    [[nodiscard]] std::uint64_t shown_inode(const FuseStatx& found) const noexcept;
    [[nodiscard]] std::size_t count() const noexcept;        // the root not counted
    [[nodiscard]] std::size_t descriptors() const noexcept;  // the root's counted
    [[nodiscard]] bool evicts() const noexcept { return evicts_; }

private:
    struct Key {
        std::uint64_t device = 0;
        std::uint64_t inode = 0;
        std::uint64_t mount = 0;
        bool operator==(const Key&) const = default;
    };
    struct KeyHash {
        std::size_t operator()(const Key& key) const noexcept;
    };
    struct Node {
        std::uint64_t id = 0;
        Key key;
        std::uint32_t type = 0;
        std::uint64_t look_ups = 0;
        std::uint64_t opens = 0;
        std::shared_ptr<const UniqueFd> fd;  // null: evicted, and `handle` finds it again
        HostFileHandle handle;
        std::list<Node*>::iterator used;  // in used_, while fd is there
    };

    [[nodiscard]] static Key key_of(const FuseStatx& found) noexcept;
    void hold(Node& node, std::shared_ptr<const UniqueFd> fd);
    void drop(Node& node) noexcept;
    void evict_until(std::size_t most) noexcept;
    [[nodiscard]] bool evict(Node& node) noexcept;
    void remove(std::uint64_t id) noexcept;
    [[nodiscard]] int reopen(std::unique_lock<std::mutex>& lock, std::uint64_t id, HostNodeRef& ref);
    [[nodiscard]] int insert(UniqueFd fd, const FuseStatx& found, std::uint64_t& id);

    mutable std::mutex mutex_;
    UniqueFd mount_;
    Key root_key_;
    std::size_t most_descriptors_;
    bool evicts_ = false;
    std::uint64_t next_id_;
    std::unordered_map<std::uint64_t, Node> nodes_;
    std::unordered_map<Key, std::uint64_t, KeyHash> by_key_;
    std::list<Node*> used_;  // with a descriptor, the least recently used first
};

}  // namespace vmthaw
