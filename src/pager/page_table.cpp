#include "pager/page_table.hpp"

#include <algorithm>
#include <string>

namespace vmthaw {
namespace {

// The owner of a claimed page looks for it at the old address and will not find it: give the claim back, or a later
// fault would wait for a fill that never comes.
void give_back_claims(const MappedRegion& piece) noexcept {
    for (std::uint64_t page = 0; page < piece.region.pages(); ++page) {
        piece.change(page, PageState::filling, PageState::absent);
        piece.change(page, PageState::zeroing, PageState::removed);
    }
}

}  // namespace

PageTable::PageTable(const std::vector<Region>& regions) {
    regions_.reserve(regions.size());
    for (const Region& region : regions) {
        const auto number = static_cast<std::uint32_t>(regions_.size());
        regions_.push_back({region, number, 0, std::make_shared<PageStates>(region.pages())});
    }
    sort();
}

void PageTable::sort() {
    std::ranges::sort(regions_, {}, [](const MappedRegion& mapped) { return mapped.region.host_address; });
}

const MappedRegion* PageTable::find(std::uint64_t host_address) const noexcept {
    auto next = std::ranges::upper_bound(regions_, host_address, {},
                                         [](const MappedRegion& mapped) { return mapped.region.host_address; });
    if (next == regions_.begin()) {
        return nullptr;
    }
    const MappedRegion& candidate = *std::prev(next);
    return host_address - candidate.region.host_address < candidate.region.size ? &candidate : nullptr;
}

const MappedRegion* PageTable::find_guest(std::uint64_t guest_address) const noexcept {
    for (const MappedRegion& mapped : regions_) {
        if (guest_address >= mapped.region.guest_address &&
            guest_address - mapped.region.guest_address < mapped.region.size) {
            return &mapped;
        }
    }
    return nullptr;
}

std::uint64_t PageTable::remove(std::uint64_t start, std::uint64_t end) noexcept {
    std::uint64_t removed = 0;
    for (const MappedRegion& mapped : regions_) {
        const std::uint64_t from = std::max(start, mapped.region.host_address);
        const std::uint64_t to = std::min(end, mapped.region.host_end());
        if (from >= to) {
            continue;
        }
        const std::uint64_t last = mapped.page_of(to - 1);
        for (std::uint64_t page = mapped.page_of(from); page <= last; ++page) {
            mapped.set(page, PageState::removed);
            ++removed;
        }
    }
    return removed;
}

void PageTable::split_at(std::uint64_t address) {
    const MappedRegion* found = find(address);
    if (found == nullptr || found->region.host_address == address) {
        return;
    }
    const auto index = static_cast<std::size_t>(found - regions_.data());
    MappedRegion& front = regions_[index];
    // A cut inside a huge page keeps the page whole in front: the kernel cuts hugetlb mappings at huge pages only.
    const std::uint64_t pages = front.page_of(address);
    const std::uint64_t bytes = pages * front.region.page_size;
    MappedRegion back = front;
    back.region.host_address += bytes;
    back.region.guest_address += bytes;
    back.region.source_offset += bytes;
    back.region.size -= bytes;
    back.first_page += pages;
    front.region.size = bytes;
    if (bytes == 0) {
        front = std::move(back);
    } else {
        regions_.insert(regions_.begin() + static_cast<std::ptrdiff_t>(index) + 1, std::move(back));
    }
}

void PageTable::unmap(std::uint64_t start, std::uint64_t end) {
    split_at(start);
    split_at(end);
    std::erase_if(regions_, [&](const MappedRegion& mapped) {
        return mapped.region.host_address >= start && mapped.region.host_address < end;
    });
}

void PageTable::remap(std::uint64_t from, std::uint64_t to, std::uint64_t size) {
    split_at(from);
    split_at(from + size);
    std::vector<MappedRegion> moved;
    for (const MappedRegion& mapped : regions_) {
        if (mapped.region.host_address >= from && mapped.region.host_address - from < size) {
            give_back_claims(mapped);
            moved.push_back(mapped);
            moved.back().region.host_address = to + (mapped.region.host_address - from);
        }
    }
    unmap(from, from + size);
    unmap(to, to + size);
    regions_.insert(regions_.end(), moved.begin(), moved.end());
    sort();
}

void PageTable::take_over(const std::vector<std::vector<std::uint8_t>>& states) const {
    for (std::size_t i = 0; i < states.size(); ++i) {
        const MappedRegion& mapped = regions_[i];
        if (states[i].size() != mapped.region.pages()) {
            throw ArgumentError(describe(mapped.region) + ": page_states must be a byte for each of its " +
                                std::to_string(mapped.region.pages()) + " pages, got " +
                                std::to_string(states[i].size()));
        }
        for (std::uint64_t page = 0; page < states[i].size(); ++page) {
            const auto state = static_cast<PageState>(states[i][page]);
            switch (state) {
                case PageState::absent:
                    break;
                case PageState::present:
                case PageState::removed:
                case PageState::failed:
                    mapped.set(page, state);
                    break;
                default:
                    throw ArgumentError(describe(mapped.region) + ": page_states holds " +
                                        std::to_string(states[i][page]) +
                                        "; it must be 0 (absent), 2 (present), 3 (removed) or 5 (failed)");
            }
        }
    }
}

PageTable PageTable::clone() const {
    PageTable copy;
    copy.regions_ = regions_;
    for (MappedRegion& mapped : copy.regions_) {
        auto states = std::make_shared<PageStates>(mapped.region.pages());
        for (std::uint64_t page = 0; page < mapped.region.pages(); ++page) {
            const PageState state = mapped.state(page);
            if (state != PageState::absent) {
                states->set(page, state);
            }
        }
        mapped.states = std::move(states);
        mapped.first_page = 0;
        give_back_claims(mapped);  // fills under way are the parent's
    }
    return copy;
}

}  // namespace vmthaw
