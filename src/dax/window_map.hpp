#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "dax/held_lease.hpp"

namespace vmthaw {

// A range of the window, in bytes from its start; never empty, never past 2^64.
struct WindowRange {
    std::uint64_t start = 0;
    std::uint64_t length = 0;

    [[nodiscard]] std::uint64_t end() const noexcept { return start + length; }
    [[nodiscard]] bool overlaps(const WindowRange& other) const noexcept {
        return start < other.end() && other.start < end();
    }
};

// The interval map of a window: disjoint pieces of mappings by where they begin. Changes happen in storage that was
// made before, so that a request fails for want of memory before it has had any effect. Not thread-safe.
class WindowMap {
    struct Piece {
        std::uint64_t length = 0;
        std::shared_ptr<HeldLease> held;
    };
    using Map = std::map<std::uint64_t, Piece>;

public:
    // Storage for one carve() and one insert(). Taken from what earlier requests gave back, where there is some.
    using Spares = std::array<Map::node_type, 2>;
    struct Found {
        WindowRange range;
        std::shared_ptr<HeldLease> held;
    };

    // Throws std::bad_alloc.
    void take_spares(Spares& spares);
    void give_back(Spares& spares) noexcept;

    // The first piece that has bytes in the range, and only those. O(log n).
    [[nodiscard]] std::optional<Found> find_first(const WindowRange& range) const noexcept;
    // The whole piece at an offset.
    [[nodiscard]] std::optional<Found> piece_at(std::uint64_t offset) const noexcept;
    [[nodiscard]] bool is_exact(const WindowRange& range) const noexcept;
    [[nodiscard]] std::uint64_t bytes_in(const WindowRange& range) const noexcept;
    // Makes a hole: pieces go, are cut, or are split in two. Leases that lost their last piece are put before `dead`.
    void carve(const WindowRange& range, Spares& spares, std::shared_ptr<HeldLease>& dead) noexcept;
    // Into a hole.
    void insert(const WindowRange& range, std::shared_ptr<HeldLease> held, Spares& spares) noexcept;

    [[nodiscard]] std::size_t size() const noexcept { return pieces_.size(); }
    [[nodiscard]] std::uint64_t mapped_bytes() const noexcept { return mapped_bytes_; }
    [[nodiscard]] std::vector<Found> list() const;

private:
    [[nodiscard]] Map::const_iterator first_in(const WindowRange& range) const noexcept;
    void keep(Map::node_type node) noexcept;
    [[nodiscard]] static Map::node_type take(Spares& spares) noexcept;

    Map pieces_;
    std::uint64_t mapped_bytes_ = 0;
    std::vector<Map::node_type> kept_;  // for the next requests
};

}  // namespace vmthaw
