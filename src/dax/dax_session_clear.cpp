#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/clock.hpp"
#include "dax/dax_session.hpp"
#include "dax/dax_turn.hpp"

// How mappings end: unmapped first, then the record, then the lease, all in one turn.
namespace vmthaw {

DaxSession::Cleared DaxSession::clear(Turn& turn, const WindowRange& range, const HeldLease* only) noexcept {
    Cleared cleared;
    for (std::uint64_t at = range.start; at < range.end();) {
        const auto found = map_.find_first({at, range.end() - at});
        if (!found) {
            break;
        }
        at = found->range.end();
        if (only != nullptr && found->held != only) {
            continue;
        }
        ++cleared.pieces;
        const std::uint64_t start_ns = only != nullptr && is_watched() ? monotonic_ns() : 0;
        const DaxMapping what = describe(*found);
        const int error =
            turn.call([&] { return mapper_->unmap(config_.guest_base + found->range.start, found->range.length); });
        std::unique_ptr<HeldLease> dead;
        map_.carve(found->range, turn.spares, dead);
        const int released = release(turn, std::move(dead));
        cleared.mapper_error = cleared.mapper_error != 0 ? cleared.mapper_error : error;
        cleared.backend_error = cleared.backend_error != 0 ? cleared.backend_error : released;
        if (start_ns != 0) {
            // Piece by piece: between them may lie what is newer, and stays.
            tell(DaxEventKind::evict, start_ns, what, error != 0 ? error : released);
        }
    }
    return cleared;
}

int DaxSession::release(Turn& turn, std::unique_ptr<HeldLease> dead) noexcept {
    int first = 0;
    while (dead) {
        const std::unique_ptr<HeldLease> one = std::exchange(dead, std::move(dead->next_dead));
        order_.remove(*one);
        const int error = give_back(turn, *one);
        first = first != 0 ? first : error;
    }
    return first;
}

int DaxSession::give_back(Turn& turn, const HeldLease& held) noexcept {
    ++stats_.leases_released;
    return turn.call([&] { return backend_->dax_unmap(held.lease); });
}

int DaxSession::make_room(Turn& turn, const WindowRange& range) noexcept {
    if (map_.size() >= config_.most_mappings && !map_.is_exact(range)) {
        return ENOSPC;
    }
    if (config_.quota_bytes == 0) {
        return 0;
    }
    if (range.length > config_.quota_bytes) {
        return ENOSPC;
    }
    const auto is_over = [&] {
        return map_.mapped_bytes() - map_.bytes_in(range) > config_.quota_bytes - range.length;
    };
    HeldLease* victim = order_.oldest();
    while (is_over()) {
        if (victim == nullptr) {
            return ENOSPC;
        }
        HeldLease* const next = victim->newer;
        const bool evicted = evict(turn, *victim, range);
        // Without the lock the order may have changed.
        victim = evicted && calls_python_ ? order_.oldest() : next;
        if (evicted && !turn.take_spares()) {
            return ENOMEM;
        }
    }
    return 0;
}

// What of the victim lies outside the range; false when that is nothing, or another request is at it.
bool DaxSession::evict(Turn& turn, const HeldLease& victim, const WindowRange& range) noexcept {
    const std::uint64_t start = victim.window_offset;
    const std::uint64_t end = start + victim.length_bytes;
    bool evicted = false;
    for (const auto& [from, to] :
         {std::pair{start, std::min(end, range.start)}, std::pair{std::max(start, range.end()), end}}) {
        if (from >= to) {
            continue;
        }
        const WindowRange part{from, to - from};
        if (calls_python_ && !reservations_.try_reserve(part)) {
            continue;
        }
        const Cleared cleared = clear(turn, part, &victim);
        if (calls_python_) {
            reservations_.release(part);
        }
        evicted = evicted || cleared.pieces != 0;
    }
    stats_.evicted += evicted ? 1 : 0;
    return evicted;
}

}  // namespace vmthaw
