#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace vmthaw {

// A run of guest-physical memory, in bytes. A plain value.
struct GuestRun {
    std::uint64_t guest_address = 0;
    std::uint64_t size = 0;

    [[nodiscard]] std::uint64_t end() const noexcept { return guest_address + size; }
    bool operator==(const GuestRun&) const noexcept = default;
};

// Runs as a session takes them: sorted, joined where they touch, shared by all sessions that replay them.
using GuestRuns = std::shared_ptr<const std::vector<GuestRun>>;

// Sorts and joins. Throws ArgumentError for an empty run, one that overflows, or more than 2**26 of them.
[[nodiscard]] GuestRuns make_guest_runs(std::vector<GuestRun> runs);

}  // namespace vmthaw
