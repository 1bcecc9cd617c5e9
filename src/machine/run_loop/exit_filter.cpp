#include "machine/run_loop/exit_filter.hpp"

#include <algorithm>
#include <limits>
#include <string>

#include "base/error.hpp"

namespace vmthaw {

std::size_t ExitFilter::add_range(Ranges& ranges, const char* what, std::uint64_t first, std::uint64_t last,
                                  std::uint64_t limit) {
    const std::string name = std::string(what) + " " + hex(first) + (first == last ? "" : " to " + hex(last));
    if (last < first || last > limit) {
        throw ArgumentError(name + ": a range ends at or behind its beginning, and at most at " + hex(limit));
    }
    const auto next = std::upper_bound(ranges.begin(), ranges.end(), first,
                                       [](std::uint64_t address, const Range& range) { return address < range.first; });
    const bool meets_next = next != ranges.end() && next->first <= last;
    const bool meets_previous = next != ranges.begin() && std::prev(next)->last >= first;
    if (meets_next || meets_previous) {
        throw ArgumentError(name + " has a handler already, all of it or a part");
    }
    ranges.insert(next, {first, last, count_});
    return count_++;
}

std::size_t ExitFilter::add_reason(std::uint32_t reason) {
    return add_range(reasons_, "exit reason", reason, reason, std::numeric_limits<std::uint32_t>::max());
}

std::size_t ExitFilter::add_ports(std::uint64_t first, std::uint64_t last) {
    return add_range(ports_, "port", first, last, std::numeric_limits<std::uint16_t>::max());
}

std::size_t ExitFilter::add_mmio(std::uint64_t first, std::uint64_t last) {
    return add_range(mmio_, "guest physical address", first, last, std::numeric_limits<std::uint64_t>::max());
}

std::optional<std::size_t> ExitFilter::find_in(const Ranges& ranges, std::uint64_t address) noexcept {
    const auto next = std::upper_bound(ranges.begin(), ranges.end(), address,
                                       [](std::uint64_t at, const Range& range) { return at < range.first; });
    if (next == ranges.begin() || std::prev(next)->last < address) {
        return std::nullopt;
    }
    return std::prev(next)->entry;
}

std::optional<std::size_t> ExitFilter::find(const Exit& exit) const noexcept {
    if (!exit.has_reason) {
        return std::nullopt;  // a KVM_RUN that failed is nobody's to decide about
    }
    std::optional<std::size_t> entry;
    if (const auto* io = std::get_if<IoExit>(&exit.payload); io != nullptr && !ports_.empty()) {
        entry = find_in(ports_, io->port);
    } else if (const auto* mmio = std::get_if<MmioExit>(&exit.payload); mmio != nullptr && !mmio_.empty()) {
        entry = find_in(mmio_, mmio->guest_address);
    }
    return entry || reasons_.empty() ? entry : find_in(reasons_, exit.reason);
}

}  // namespace vmthaw
