#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
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

// The interval map of a window: disjoint pieces of mappings by where they begin, in leaves of some dozens under one
// index, so that a look-up among 100,000 touches few cache lines. Changes happen in storage that was made before, so
// that a request fails for want of memory before it has had any effect. Not thread-safe.
class WindowMap {
    struct Piece {
        std::uint64_t length = 0;
        HeldLease* held = nullptr;
    };
    struct Leaf {
        static constexpr std::size_t kMost = 16;
        std::size_t count = 0;
        std::array<std::uint64_t, kMost> starts{};
        std::array<Piece, kMost> pieces;
    };
    using Block = std::array<Leaf, 64>;

public:
    // The lease is good as long as the piece is in the map.
    struct Found {
        WindowRange range;
        HeldLease* held = nullptr;
    };

    WindowMap() = default;
    WindowMap(const WindowMap&) = delete;
    WindowMap& operator=(const WindowMap&) = delete;
    ~WindowMap();

    // Storage for one carve() and one insert(), to be given back.
    class Spares {
        friend class WindowMap;
        std::array<Leaf*, 2> leaves_{};
        bool taken_ = false;
    };
    // More than once is once, unless some was used. Throws std::bad_alloc.
    void take_spares(Spares& spares);
    void give_back(Spares& spares) noexcept;

    // The first piece that has bytes in the range, and only those. O(log n), as the next three.
    [[nodiscard]] std::optional<Found> find_first(const WindowRange& range) const noexcept;
    // The whole piece at an offset.
    [[nodiscard]] std::optional<Found> piece_at(std::uint64_t offset) const noexcept;
    [[nodiscard]] bool is_exact(const WindowRange& range) const noexcept;
    [[nodiscard]] bool is_hole(const WindowRange& range) const noexcept;
    [[nodiscard]] std::uint64_t bytes_in(const WindowRange& range) const noexcept;
    // Makes a hole: pieces go, are cut, or are split in two. Leases that lost their last piece are put before `dead`.
    void carve(const WindowRange& range, Spares& spares, std::unique_ptr<HeldLease>& dead) noexcept;
    // Into a hole.
    void insert(const WindowRange& range, std::unique_ptr<HeldLease> held, Spares& spares) noexcept;

    [[nodiscard]] std::size_t size() const noexcept { return size_; }
    [[nodiscard]] std::uint64_t mapped_bytes() const noexcept { return mapped_bytes_; }
    [[nodiscard]] std::vector<Found> list() const;

private:
    struct Place {
        std::size_t leaf = 0;
        std::size_t slot = 0;
    };
    // The first piece that ends beyond `offset`; its leaf may be one past the last.
    [[nodiscard]] std::size_t leaf_of(std::uint64_t offset) const noexcept;
    [[nodiscard]] Place first_beyond(std::uint64_t offset) const noexcept;
    [[nodiscard]] bool begins_before(const Place& place, std::uint64_t offset) const noexcept {
        return place.leaf < leaves_.size() && leaves_[place.leaf]->starts[place.slot] < offset;
    }
    [[nodiscard]] Place after(Place place) const noexcept;
    void move_start(const Place& place, std::uint64_t start) noexcept;
    Place erase(const Place& place) noexcept;
    void add(std::uint64_t start, Piece piece, Spares& spares) noexcept;
    void add_leaf(std::size_t index, Leaf& leaf) noexcept;

    std::vector<std::uint64_t> firsts_;  // where each leaf begins
    std::vector<Leaf*> leaves_;
    // Leaves lie side by side, for the processor's translation cache, and are used again but never given back.
    std::vector<std::unique_ptr<Block>> blocks_;
    std::vector<Leaf*> free_;
    mutable std::size_t last_leaf_ = 0;  // that a look-up came to: the next is often for the same range
    std::size_t promised_ = 0;           // leaves that those who have spares may still add
    std::size_t size_ = 0;
    std::uint64_t mapped_bytes_ = 0;
};

}  // namespace vmthaw
