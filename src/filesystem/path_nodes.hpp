#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

namespace vmthaw {

// Node ids for a file system that knows paths alone: which id the client holds for which name, with its look-up count.
// A node lives while it is counted or has others below it; one whose name was removed keeps its last path, and nothing
// finds it by name. Any thread; the lock is never held while anybody else is called. Answers are 0 or a positive errno.
class PathNodes {
public:
    PathNodes();

    // "/" and then names between slashes. ESTALE for a node that the client does not hold.
    [[nodiscard]] int path_of(std::uint64_t node, std::string& path) const noexcept;
    [[nodiscard]] int path_of(std::uint64_t parent, std::string_view name, std::string& path) const noexcept;
    // The id of what lies there, counting one look-up; made if the client holds none.
    [[nodiscard]] int give(std::uint64_t parent, std::string_view name, std::uint64_t& node) noexcept;
    void forget(std::uint64_t node, std::uint64_t count) noexcept;
    // After the file system did it.
    void removed(std::uint64_t parent, std::string_view name) noexcept;
    void renamed(std::uint64_t parent, std::string_view name, std::uint64_t new_parent, std::string_view new_name,
                 bool exchanged) noexcept;
    void clear() noexcept;

    [[nodiscard]] std::uint64_t held() const noexcept;  // counted nodes, the root not
    [[nodiscard]] std::uint64_t size() const noexcept;  // all that are remembered, the root included

private:
    struct Node {
        std::uint64_t parent = 0;
        std::string name;
        std::uint64_t lookups = 0;
        std::uint64_t children = 0;
        bool attached = true;
    };
    using Key = std::pair<std::uint64_t, std::string>;

    // All of these: under the lock.
    [[nodiscard]] int append_path(std::uint64_t node, std::string& path) const;
    [[nodiscard]] std::uint64_t find(std::uint64_t parent, std::string_view name) const;
    [[nodiscard]] bool is_below(std::uint64_t node, std::uint64_t ancestor) const noexcept;
    void attach(std::uint64_t node, std::uint64_t parent, std::string name);
    void let_go(std::uint64_t node) noexcept;

    mutable std::mutex mutex_;
    std::unordered_map<std::uint64_t, Node> nodes_;
    std::map<Key, std::uint64_t> names_;
    std::uint64_t next_id_ = 0;
    std::uint64_t held_ = 0;
};

}  // namespace vmthaw
