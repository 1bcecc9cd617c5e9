#include "machine/watchpoints/read_only_pages.hpp"

#include <linux/kvm.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include "base/error.hpp"
#include "base/page.hpp"

namespace vmthaw {
namespace {

bool contains(const MemorySlot& slot, std::uint64_t guest_page) noexcept {
    return guest_page >= slot.guest_address && guest_page - slot.guest_address < slot.size_bytes;
}

}  // namespace

std::vector<MemorySlot> cut_memory_slot(const MemorySlot& slot, const std::vector<std::uint64_t>& pages) {
    std::vector<MemorySlot> pieces;
    const auto add = [&](std::uint64_t begin, std::uint64_t end, bool read_only) {
        if (begin == end) {
            return;
        }
        MemorySlot piece = slot;
        piece.guest_address = begin;
        piece.host_address = slot.host_address + (begin - slot.guest_address);
        piece.size_bytes = end - begin;
        piece.read_only = slot.read_only || read_only;
        piece.log_dirty_pages = slot.log_dirty_pages && !piece.read_only;
        pieces.push_back(piece);
    };
    std::uint64_t at = slot.guest_address;
    for (const std::uint64_t page : pages) {
        add(at, page, false);
        add(page, page + kPageBytes, true);
        at = page + kPageBytes;
    }
    add(at, slot.guest_address + slot.size_bytes, false);
    return pieces;
}

void ReadOnlyPages::add(std::uint64_t guest_page) {
    for (auto& [number, cut] : cuts_) {
        if (contains(cut.whole, guest_page)) {
            if (++cut.pages[guest_page] == 1) {
                try {
                    lay(cut);
                } catch (...) {
                    cut.pages.erase(guest_page);
                    throw;
                }
            }
            return;
        }
    }
    const std::vector<MemorySlot> slots = vm_.memory_slots();
    const auto found = std::ranges::find_if(slots, [&](const MemorySlot& slot) { return contains(slot, guest_page); });
    if (found == slots.end()) {
        throw ArgumentError("guest physical page " + hex(guest_page) + " is in no memory slot of the VM");
    }
    const std::string which = "memory slot " + std::to_string(found->slot);
    if (found->read_only) {
        throw ArgumentError(which + " is read-only: stores to it are exits already, and reach no memory");
    }
    if (found->log_dirty_pages && !vm_.keeps_removed_slots()) {
        throw ArgumentError(which +
                            " logs dirty pages, and a read-only page cut out of it would lose the log: read "
                            "the log, and set the slot without log_dirty_pages while a page of it is watched");
    }
    Cut cut{*found, {{guest_page, 1}}, {found->slot}};
    lay(cut);
    cuts_.emplace(found->slot, std::move(cut));
}

void ReadOnlyPages::remove(std::uint64_t guest_page) {
    for (auto& [number, cut] : cuts_) {
        const auto page = cut.pages.find(guest_page);
        if (page == cut.pages.end()) {
            continue;
        }
        if (page->second > 1) {
            --page->second;
            return;
        }
        cut.pages.erase(page);
        try {
            lay(cut);
        } catch (...) {
            cut.pages[guest_page] = 1;
            throw;
        }
        if (cut.pages.empty()) {
            cuts_.erase(number);
        }
        return;
    }
}

void ReadOnlyPages::lay(Cut& cut) {
    std::vector<std::uint64_t> pages;
    for (const auto& [page, count] : cut.pages) {
        pages.push_back(page);
    }
    // What is there now, in case the kernel refuses; whether it logs may have changed since it was cut.
    std::vector<MemorySlot> before;
    for (const MemorySlot& slot : vm_.memory_slots()) {
        if (std::ranges::find(cut.pieces, slot.slot) != cut.pieces.end()) {
            before.push_back(slot);
            cut.whole.log_dirty_pages = cut.whole.log_dirty_pages || slot.log_dirty_pages;
        }
    }
    try {
        replace(cut, cut_memory_slot(cut.whole, pages));
    } catch (...) {
        replace(cut, before);
        throw;
    }
}

void ReadOnlyPages::replace(Cut& cut, const std::vector<MemorySlot>& pieces) {
    while (!cut.pieces.empty()) {
        vm_.remove_memory_slot(cut.pieces.back());
        cut.pieces.pop_back();
    }
    for (MemorySlot piece : pieces) {
        piece.slot = cut.pieces.empty() ? cut.whole.slot : new_number();
        vm_.set_memory_slot(piece);
        cut.pieces.push_back(piece.slot);
    }
}

// From the top, where nobody counts his own, and another each time: what somebody still remembers of a slot that is
// gone (a dirty ring's entries) must not mean the next.
std::uint32_t ReadOnlyPages::new_number() {
    const std::vector<MemorySlot> slots = vm_.memory_slots();
    const auto most = static_cast<std::uint32_t>(std::max(vm_.check_extension(KVM_CAP_NR_MEMSLOTS), 1));
    for (std::uint32_t tried = 0; tried < most; ++tried) {
        next_number_ = next_number_ > 0 ? next_number_ - 1 : most - 1;
        if (std::ranges::none_of(slots, [&](const MemorySlot& slot) { return slot.slot == next_number_; })) {
            return next_number_;
        }
    }
    throw SystemError(ENOSPC, "KVM_SET_USER_MEMORY_REGION", "all memory slots are in use");
}

}  // namespace vmthaw
