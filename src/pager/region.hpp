#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "source/page_source.hpp"

namespace vmthaw {

// A run of guest memory as the VMM mapped it. All in bytes.
struct Region {
    std::uint64_t host_address = 0;   // in the VMM's address space
    std::uint64_t guest_address = 0;  // guest physical
    std::uint64_t size = 0;
    std::uint64_t source_offset = 0;  // of its first byte in the source
    std::uint64_t page_size = 4096;   // a power of two; userfaultfd serves 4 KiB and 2 MiB

    [[nodiscard]] std::uint64_t host_end() const noexcept { return host_address + size; }
    [[nodiscard]] std::uint64_t guest_end() const noexcept { return guest_address + size; }
    [[nodiscard]] std::uint64_t pages() const noexcept { return size / page_size; }
    bool operator==(const Region&) const noexcept = default;
};

// Checks alignment, overflow, overlap (host, and guest) and coverage by the source, and gives the regions back sorted
// by host address. Throws Error(RegionError) that names the region and the field. Limits: 1 to 4096 regions, 64 TiB
// each.
[[nodiscard]] std::vector<Region> check_regions(std::vector<Region> regions, const PageSource* source);

[[nodiscard]] std::string describe(const Region& region);

}  // namespace vmthaw
