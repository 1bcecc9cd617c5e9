#include <sys/stat.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <vector>

#include "base/page.hpp"
#include "dax/dax_session.hpp"

namespace vmthaw {

DaxMapping DaxSession::describe(const WindowMap::Found& found) const noexcept {
    const HeldLease& held = *found.held;
    return {config_.guest_base + found.range.start,
            found.range.start,
            found.range.length,
            held.file_offset + (found.range.start - held.window_offset),
            held.node,
            held.prot,
            0};
}

std::size_t DaxSession::active_slot_count() const {
    const std::lock_guard lock(mutex_);
    return map_.size();
}

std::vector<DaxMapping> DaxSession::mappings() const {
    const std::lock_guard lock(mutex_);
    std::vector<DaxMapping> found;
    found.reserve(map_.size());
    for (const WindowMap::Found& one : map_.list()) {
        found.push_back(describe(one));
    }
    return found;
}

std::vector<DaxMapping> DaxSession::mapped_ranges(std::uint64_t node) const {
    std::vector<DaxMapping> found = mappings();
    std::erase_if(found, [node](const DaxMapping& one) { return one.node != node; });
    return found;
}

std::optional<DaxMapping> DaxSession::mapping_at(std::uint64_t guest_address) const {
    if (guest_address < config_.guest_base || guest_address - config_.guest_base >= config_.window_bytes) {
        return std::nullopt;
    }
    const std::lock_guard lock(mutex_);
    const auto piece = map_.piece_at(guest_address - config_.guest_base);
    return piece ? std::optional(describe(*piece)) : std::nullopt;
}

std::vector<DaxMapping> DaxSession::past_end() const {
    const std::lock_guard lock(mutex_);
    std::vector<DaxMapping> found;
    for (WindowMap::Found one : map_.list()) {
        struct stat file{};
        const Lease part = one.held->part(one.range.start, one.range.length);
        if (::fstat(part.fd, &file) != 0) {
            continue;
        }
        // What is left of the last page reads as zeros.
        const std::uint64_t file_end = round_up(static_cast<std::uint64_t>(file.st_size), kPageBytes);
        const std::uint64_t there =
            std::min(std::max(file_end, part.offset_bytes) - part.offset_bytes, part.length_bytes);
        if (there < part.length_bytes) {
            one.range = {one.range.start + there, one.range.length - there};
            found.push_back(describe(one));
        }
    }
    return found;
}

DaxStats DaxSession::stats() const {
    const std::lock_guard lock(mutex_);
    DaxStats stats = stats_;
    stats.mapped_bytes = map_.mapped_bytes();
    stats.active_slots = map_.size();
    return stats;
}

}  // namespace vmthaw
