#include "dax/window_map.hpp"

#include <algorithm>
#include <array>
#include <utility>

namespace vmthaw {
namespace {

// std::vector grows by doubling in push_back, not in reserve().
template <typename Vector>
void make_room_in(Vector& vector, std::size_t size) {
    if (vector.capacity() < size) {
        vector.reserve(std::max(size, 2 * vector.capacity()));
    }
}

// How many of the sorted numbers are at most `most`. Without branches: which way a look-up goes cannot be foreseen.
std::size_t count_up_to(const std::uint64_t* numbers, std::size_t size, std::uint64_t most) noexcept {
    if (size == 0) {
        return 0;
    }
    std::size_t at = 0;
    while (size > 1) {
        const std::size_t half = size / 2;
        at += half * static_cast<std::size_t>(numbers[at + half] <= most);
        size -= half;
    }
    return at + static_cast<std::size_t>(numbers[at] <= most);
}

std::ptrdiff_t step(std::size_t index) noexcept { return static_cast<std::ptrdiff_t>(index); }

}  // namespace

WindowMap::~WindowMap() {
    for (const Leaf* const leaf : leaves_) {
        for (std::size_t slot = 0; slot < leaf->count; ++slot) {
            HeldLease* const held = leaf->pieces[slot].held;
            if (--held->pieces == 0) {
                const std::unique_ptr<HeldLease> last(held);
            }
        }
    }
}

void WindowMap::take_spares(Spares& spares) {
    const std::size_t promised = promised_ + (spares.taken_ ? 0 : spares.leaves_.size());
    make_room_in(firsts_, firsts_.size() + promised);
    make_room_in(leaves_, leaves_.size() + promised);
    if (free_.size() < spares.leaves_.size()) {
        make_room_in(blocks_, blocks_.size() + 1);
        make_room_in(free_, (blocks_.size() + 1) * std::tuple_size_v<Block>);
        blocks_.push_back(std::make_unique<Block>());
        for (Leaf& leaf : *blocks_.back()) {
            free_.push_back(&leaf);
        }
    }
    for (Leaf*& leaf : spares.leaves_) {
        if (leaf == nullptr) {
            leaf = free_.back();
            free_.pop_back();
        }
    }
    promised_ = promised;
    spares.taken_ = true;
}

void WindowMap::give_back(Spares& spares) noexcept {
    if (!std::exchange(spares.taken_, false)) {
        return;
    }
    promised_ -= spares.leaves_.size();
    for (Leaf*& leaf : spares.leaves_) {
        if (leaf != nullptr) {
            free_.push_back(std::exchange(leaf, nullptr));
        }
    }
}

// The last leaf that begins at the offset or before it, else the first.
std::size_t WindowMap::leaf_of(std::uint64_t offset) const noexcept {
    const std::size_t last = last_leaf_;
    if (last < firsts_.size() && firsts_[last] <= offset &&
        (last + 1 == firsts_.size() || offset < firsts_[last + 1])) {
        return last;
    }
    last_leaf_ = count_up_to(firsts_.data(), firsts_.size(), offset);
    last_leaf_ -= last_leaf_ > 0 ? 1 : 0;
    return last_leaf_;
}

WindowMap::Place WindowMap::first_beyond(std::uint64_t offset) const noexcept {
    const std::size_t index = leaf_of(offset);
    if (leaves_.empty()) {
        return {0, 0};
    }
    const Leaf& leaf = *leaves_[index];
    const std::size_t slot = count_up_to(leaf.starts.data(), leaf.count, offset);
    if (slot == 0) {
        return {index, 0};
    }
    const Place before{index, slot - 1};
    return leaf.starts[slot - 1] + leaf.pieces[slot - 1].length > offset ? before : after(before);
}

WindowMap::Place WindowMap::after(Place place) const noexcept {
    ++place.slot;
    return place.slot < leaves_[place.leaf]->count ? place : Place{place.leaf + 1, 0};
}

std::optional<WindowMap::Found> WindowMap::find_first(const WindowRange& range) const noexcept {
    const Place place = first_beyond(range.start);
    if (!begins_before(place, range.end())) {
        return std::nullopt;
    }
    const Leaf& leaf = *leaves_[place.leaf];
    const Piece& piece = leaf.pieces[place.slot];
    const std::uint64_t start = std::max(leaf.starts[place.slot], range.start);
    const std::uint64_t end = std::min(leaf.starts[place.slot] + piece.length, range.end());
    return Found{{start, end - start}, piece.held};
}

std::optional<WindowMap::Found> WindowMap::piece_at(std::uint64_t offset) const noexcept {
    const Place place = first_beyond(offset);
    if (place.leaf == leaves_.size() || leaves_[place.leaf]->starts[place.slot] > offset) {
        return std::nullopt;
    }
    const Leaf& leaf = *leaves_[place.leaf];
    return Found{{leaf.starts[place.slot], leaf.pieces[place.slot].length}, leaf.pieces[place.slot].held};
}

bool WindowMap::is_exact(const WindowRange& range) const noexcept {
    const Place place = first_beyond(range.start);
    return place.leaf < leaves_.size() && leaves_[place.leaf]->starts[place.slot] == range.start &&
           leaves_[place.leaf]->pieces[place.slot].length == range.length;
}

bool WindowMap::is_hole(const WindowRange& range) const noexcept {
    return !begins_before(first_beyond(range.start), range.end());
}

std::uint64_t WindowMap::bytes_in(const WindowRange& range) const noexcept {
    std::uint64_t bytes = 0;
    for (Place place = first_beyond(range.start); begins_before(place, range.end()); place = after(place)) {
        const std::uint64_t start = leaves_[place.leaf]->starts[place.slot];
        const std::uint64_t end = start + leaves_[place.leaf]->pieces[place.slot].length;
        bytes += std::min(end, range.end()) - std::max(start, range.start);
    }
    return bytes;
}

void WindowMap::carve(const WindowRange& range, Spares& spares, std::unique_ptr<HeldLease>& dead) noexcept {
    Place place = first_beyond(range.start);
    while (begins_before(place, range.end())) {
        const std::uint64_t start = leaves_[place.leaf]->starts[place.slot];
        Piece& piece = leaves_[place.leaf]->pieces[place.slot];
        const std::uint64_t end = start + piece.length;
        mapped_bytes_ -= std::min(end, range.end()) - std::max(start, range.start);
        if (start < range.start) {
            piece.length = range.start - start;
            if (end > range.end()) {
                ++piece.held->pieces;
                add(range.end(), {end - range.end(), piece.held}, spares);
                return;
            }
            place = after(place);
        } else if (end > range.end()) {
            piece.length = end - range.end();
            move_start(place, range.end());
            return;
        } else {
            if (--piece.held->pieces == 0) {
                piece.held->next_dead = std::move(dead);
                dead.reset(piece.held);
            }
            place = erase(place);
        }
    }
}

void WindowMap::insert(const WindowRange& range, std::unique_ptr<HeldLease> held, Spares& spares) noexcept {
    ++held->pieces;
    mapped_bytes_ += range.length;
    add(range.start, {range.length, held.release()}, spares);
}

void WindowMap::move_start(const Place& place, std::uint64_t start) noexcept {
    leaves_[place.leaf]->starts[place.slot] = start;
    firsts_[place.leaf] = leaves_[place.leaf]->starts[0];
}

WindowMap::Place WindowMap::erase(const Place& place) noexcept {
    Leaf& leaf = *leaves_[place.leaf];
    std::move(leaf.starts.begin() + step(place.slot) + 1, leaf.starts.begin() + step(leaf.count),
              leaf.starts.begin() + step(place.slot));
    std::move(leaf.pieces.begin() + step(place.slot) + 1, leaf.pieces.begin() + step(leaf.count),
              leaf.pieces.begin() + step(place.slot));
    --leaf.count;
    --size_;
    if (leaf.count > 0) {
        firsts_[place.leaf] = leaf.starts[0];
        return place.slot < leaf.count ? place : Place{place.leaf + 1, 0};
    }
    free_.push_back(&leaf);
    leaves_.erase(leaves_.begin() + step(place.leaf));
    firsts_.erase(firsts_.begin() + step(place.leaf));
    return {place.leaf, 0};
}

void WindowMap::add(std::uint64_t start, Piece piece, Spares& spares) noexcept {
    Leaf*& spare = spares.leaves_[spares.leaves_[0] != nullptr ? 0 : 1];
    ++size_;
    std::size_t index = leaf_of(start);
    if (leaves_.empty()) {
        spare->starts[0] = start;
        add_leaf(0, *std::exchange(spare, nullptr));
    } else if (leaves_[index]->count == Leaf::kMost) {
        Leaf& full = *leaves_[index];
        constexpr std::size_t kHalf = Leaf::kMost / 2;
        std::move(full.starts.begin() + kHalf, full.starts.end(), spare->starts.begin());
        std::move(full.pieces.begin() + kHalf, full.pieces.end(), spare->pieces.begin());
        full.count = spare->count = kHalf;
        add_leaf(index + 1, *std::exchange(spare, nullptr));
        index += start > firsts_[index + 1] ? 1 : 0;
    }
    Leaf& leaf = *leaves_[index];
    const auto slot =
        std::upper_bound(leaf.starts.begin(), leaf.starts.begin() + step(leaf.count), start) - leaf.starts.begin();
    std::move_backward(leaf.starts.begin() + slot, leaf.starts.begin() + step(leaf.count),
                       leaf.starts.begin() + step(leaf.count) + 1);
    std::move_backward(leaf.pieces.begin() + slot, leaf.pieces.begin() + step(leaf.count),
                       leaf.pieces.begin() + step(leaf.count) + 1);
    leaf.starts[static_cast<std::size_t>(slot)] = start;
    leaf.pieces[static_cast<std::size_t>(slot)] = piece;
    ++leaf.count;
    firsts_[index] = leaf.starts[0];
}

// Within the capacity that take_spares() made.
void WindowMap::add_leaf(std::size_t index, Leaf& leaf) noexcept {
    firsts_.insert(firsts_.begin() + step(index), leaf.starts[0]);
    leaves_.insert(leaves_.begin() + step(index), &leaf);
}

std::vector<WindowMap::Found> WindowMap::list() const {
    std::vector<Found> found;
    found.reserve(size_);
    for (const Leaf* const leaf : leaves_) {
        for (std::size_t slot = 0; slot < leaf->count; ++slot) {
            found.push_back({{leaf->starts[slot], leaf->pieces[slot].length}, leaf->pieces[slot].held});
        }
    }
    return found;
}

}  // namespace vmthaw
