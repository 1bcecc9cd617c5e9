#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "pager/page_states.hpp"
#include "pager/region.hpp"

namespace vmthaw {

// A region as it is mapped now, with the states of its pages. REMAP moves it, UNMAP cuts it: pieces share one map.
struct MappedRegion {
    Region region;
    std::uint32_t number = 0;      // of the region it came from, for traces
    std::uint64_t first_page = 0;  // of this piece in `states`
    std::shared_ptr<PageStates> states;

    [[nodiscard]] std::uint64_t page_of(std::uint64_t host_address) const noexcept {
        return (host_address - region.host_address) / region.page_size;
    }
    [[nodiscard]] PageState state(std::uint64_t page) const noexcept { return states->get(first_page + page); }
    void set(std::uint64_t page, PageState to) const noexcept { states->set(first_page + page, to); }
    bool change(std::uint64_t page, PageState from, PageState to) const noexcept {
        return states->change(first_page + page, from, to);
    }
    [[nodiscard]] std::uint64_t host_of(std::uint64_t page) const noexcept {
        return region.host_address + page * region.page_size;
    }
    [[nodiscard]] std::uint64_t offset_of(std::uint64_t page) const noexcept {
        return region.source_offset + page * region.page_size;
    }
    [[nodiscard]] std::uint64_t guest_of(std::uint64_t page) const noexcept {
        return region.guest_address + page * region.page_size;
    }
};

// The regions of one userfaultfd, by host address, with their page states.
// Look-ups under the gate shared or exclusive; remove, unmap and remap under the gate exclusive (they may allocate:
// they are rare).
class PageTable {
public:
    explicit PageTable(const std::vector<Region>& regions);  // checked and sorted already

    [[nodiscard]] const MappedRegion* find(std::uint64_t host_address) const noexcept;
    [[nodiscard]] const MappedRegion* find_guest(std::uint64_t guest_address) const noexcept;
    [[nodiscard]] const std::vector<MappedRegion>& regions() const noexcept { return regions_; }

    // REMOVE: every page that the range touches is zeros from now on. Gives the number of pages.
    std::uint64_t remove(std::uint64_t start, std::uint64_t end) noexcept;
    // UNMAP: the range is no longer ours.
    void unmap(std::uint64_t start, std::uint64_t end);
    // REMAP: region and page states move; source offsets and guest addresses stay. What lay at the target is gone.
    void remap(std::uint64_t from, std::uint64_t to, std::uint64_t size);
    // What a former server knew of the pages, a row for each region: removed ones stay zeros whatever the source holds.
    // Throws ArgumentError.
    void take_over(const std::vector<std::vector<std::uint8_t>>& states) const;
    // A deep copy for a forked child: its pages go their own way from here.
    [[nodiscard]] PageTable clone() const;

private:
    PageTable() = default;
    // Cuts regions at `address`, so that no region crosses it.
    void split_at(std::uint64_t address);
    void sort();
    std::vector<MappedRegion> regions_;
};

}  // namespace vmthaw
