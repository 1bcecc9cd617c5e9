#include "pager/region.hpp"

#include <algorithm>
#include <bit>
#include <limits>

namespace vmthaw {
namespace {

constexpr std::size_t kMaxRegions = 4096;
constexpr std::uint64_t kMaxRegionBytes = 1ULL << 46U;  // 64 TiB
constexpr std::uint64_t kMinPageSize = 4096;
constexpr std::uint64_t kMaxPageSize = 1ULL << 30U;

[[noreturn]] void refuse(const Region& region, const std::string& why) {
    throw Error(describe(region) + ": " + why, "RegionError");
}

void check_alignment(const Region& region) {
    if (!std::has_single_bit(region.page_size) || region.page_size < kMinPageSize || region.page_size > kMaxPageSize) {
        refuse(region, "page_size must be a power of two from 4096 to 1 GiB");
    }
    const std::uint64_t mask = region.page_size - 1;
    if (region.size == 0 || region.size > kMaxRegionBytes) {
        refuse(region, "size must be from one page to 64 TiB");
    }
    if ((region.size & mask) != 0) {
        refuse(region, "size is not a multiple of page_size");
    }
    if ((region.host_address & mask) != 0) {
        refuse(region, "host_address is not aligned to page_size");
    }
    if ((region.guest_address & mask) != 0) {
        refuse(region, "guest_address is not aligned to page_size");
    }
    // A source offset may be aligned to less than a huge page: Firecracker's offsets are cumulative.
    if ((region.source_offset & (kMinPageSize - 1)) != 0) {
        refuse(region, "source_offset is not a multiple of 4096");
    }
}

void check_overflow(const Region& region) {
    constexpr std::uint64_t kMax = std::numeric_limits<std::uint64_t>::max();
    if (region.size > kMax - region.host_address) {
        refuse(region, "host_address + size overflows");
    }
    if (region.size > kMax - region.guest_address) {
        refuse(region, "guest_address + size overflows");
    }
    if (region.size > kMax - region.source_offset) {
        refuse(region, "source_offset + size overflows");
    }
}

void check_guest_overlap(std::vector<Region> regions) {
    std::ranges::sort(regions, {}, &Region::guest_address);
    for (std::size_t i = 1; i < regions.size(); ++i) {
        if (regions[i].guest_address < regions[i - 1].guest_end()) {
            refuse(regions[i], "overlaps in guest memory with " + describe(regions[i - 1]));
        }
    }
}

}  // namespace

std::string describe(const Region& region) {
    return "region host " + hex(region.host_address) + " guest " + hex(region.guest_address) + " size " +
           hex(region.size) + " offset " + hex(region.source_offset) + " page_size " + std::to_string(region.page_size);
}

std::vector<Region> check_regions(std::vector<Region> regions, const PageSource* source) {
    if (regions.empty() || regions.size() > kMaxRegions) {
        throw Error("from 1 to 4096 regions are needed, got " + std::to_string(regions.size()), "RegionError");
    }
    for (const Region& region : regions) {
        check_alignment(region);
        check_overflow(region);
        // The last page may begin before the source's end and run over it; covers() itself knows 4 KiB pages only.
        const std::uint64_t needed = region.size - region.page_size + std::min<std::uint64_t>(region.page_size, 4096);
        if (source != nullptr && !source->covers(region.source_offset, needed)) {
            refuse(region, "is not covered by " + source->description() + " (from " + hex(source->start()) + ", " +
                               hex(source->size()) + " bytes)");
        }
    }
    std::ranges::sort(regions, {}, &Region::host_address);
    for (std::size_t i = 1; i < regions.size(); ++i) {
        if (regions[i].host_address < regions[i - 1].host_end()) {
            refuse(regions[i], "overlaps in host memory with " + describe(regions[i - 1]));
        }
    }
    check_guest_overlap(regions);
    return regions;
}

}  // namespace vmthaw
