#include "dax/window_map.hpp"

#include <algorithm>
#include <utility>

namespace vmthaw {
namespace {

constexpr std::size_t kMostKept = 64;

}  // namespace

void WindowMap::take_spares(Spares& spares) {
    kept_.reserve(kMostKept);
    for (auto& spare : spares) {
        if (!spare.empty()) {
            continue;
        }
        if (!kept_.empty()) {
            spare = std::move(kept_.back());
            kept_.pop_back();
            continue;
        }
        Map one;
        spare = one.extract(one.try_emplace(0).first);
    }
}

void WindowMap::give_back(Spares& spares) noexcept {
    for (auto& spare : spares) {
        if (!spare.empty()) {
            keep(std::move(spare));
        }
    }
}

void WindowMap::keep(Map::node_type node) noexcept {
    node.mapped().held.reset();
    if (kept_.size() < kept_.capacity()) {
        kept_.push_back(std::move(node));
    }
}

WindowMap::Map::node_type WindowMap::take(Spares& spares) noexcept {
    for (auto& spare : spares) {
        if (!spare.empty()) {
            return std::move(spare);
        }
    }
    return {};
}

WindowMap::Map::const_iterator WindowMap::first_in(const WindowRange& range) const noexcept {
    auto next = pieces_.upper_bound(range.start);
    if (next != pieces_.begin()) {
        const auto before = std::prev(next);
        if (before->first + before->second.length > range.start) {
            return before;
        }
    }
    return next;
}

std::optional<WindowMap::Found> WindowMap::find_first(const WindowRange& range) const noexcept {
    const auto found = first_in(range);
    if (found == pieces_.end() || found->first >= range.end()) {
        return std::nullopt;
    }
    const std::uint64_t start = std::max(found->first, range.start);
    const std::uint64_t end = std::min(found->first + found->second.length, range.end());
    return Found{{start, end - start}, found->second.held};
}

std::optional<WindowMap::Found> WindowMap::piece_at(std::uint64_t offset) const noexcept {
    const auto found = first_in({offset, 1});
    if (found == pieces_.end() || found->first > offset) {
        return std::nullopt;
    }
    return Found{{found->first, found->second.length}, found->second.held};
}

bool WindowMap::is_exact(const WindowRange& range) const noexcept {
    const auto found = pieces_.find(range.start);
    return found != pieces_.end() && found->second.length == range.length;
}

std::uint64_t WindowMap::bytes_in(const WindowRange& range) const noexcept {
    std::uint64_t bytes = 0;
    for (auto piece = first_in(range); piece != pieces_.end() && piece->first < range.end(); ++piece) {
        bytes += std::min(piece->first + piece->second.length, range.end()) - std::max(piece->first, range.start);
    }
    return bytes;
}

void WindowMap::carve(const WindowRange& range, Spares& spares, std::shared_ptr<HeldLease>& dead) noexcept {
    auto piece = pieces_.begin();
    piece = pieces_.erase(first_in(range), first_in(range));  // as a mutable iterator
    while (piece != pieces_.end() && piece->first < range.end()) {
        const std::uint64_t end = piece->first + piece->second.length;
        if (piece->first < range.start) {
            piece->second.length = range.start - piece->first;
            mapped_bytes_ -= std::min(end, range.end()) - range.start;
            if (end > range.end()) {
                auto right = take(spares);
                right.key() = range.end();
                right.mapped() = {end - range.end(), piece->second.held};
                ++piece->second.held->pieces;
                pieces_.insert(std::next(piece), std::move(right));
                return;
            }
            ++piece;
            continue;
        }
        const auto next = std::next(piece);
        auto node = pieces_.extract(piece);
        if (end > range.end()) {
            mapped_bytes_ -= range.end() - node.key();
            node.key() = range.end();
            node.mapped().length = end - range.end();
            pieces_.insert(next, std::move(node));
            return;
        }
        mapped_bytes_ -= node.mapped().length;
        std::shared_ptr<HeldLease>& held = node.mapped().held;
        if (--held->pieces == 0) {
            held->next_dead = std::move(dead);
            dead = std::move(held);
        }
        keep(std::move(node));
        piece = next;
    }
}

void WindowMap::insert(const WindowRange& range, std::shared_ptr<HeldLease> held, Spares& spares) noexcept {
    auto node = take(spares);
    ++held->pieces;
    node.key() = range.start;
    node.mapped() = {range.length, std::move(held)};
    pieces_.insert(std::move(node));
    mapped_bytes_ += range.length;
}

std::vector<WindowMap::Found> WindowMap::list() const {
    std::vector<Found> found;
    found.reserve(pieces_.size());
    for (const auto& [start, piece] : pieces_) {
        found.push_back({{start, piece.length}, piece.held});
    }
    return found;
}

}  // namespace vmthaw
