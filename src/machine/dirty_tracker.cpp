#include "machine/dirty_tracker.hpp"

#include <array>
#include <cerrno>
#include <utility>

#include "base/error.hpp"
#include "base/page.hpp"

namespace vmthaw {

const char* dirty_tracking_name(DirtyTracking way) noexcept {
    constexpr std::array kNames{"none", "log", "manual_log", "ring"};
    return kNames[static_cast<std::size_t>(way)];
}

DirtyTracker::DirtyTracker(Vm& vm, const GuestMemory& memory, bool rings)
    : vm_(vm), memory_(memory), rings_(rings), from_rings_(words_for_pages(memory.size_bytes() / kPageBytes)) {}

void DirtyTracker::add_vcpu(Vcpu& vcpu) {
    vcpus_.push_back(&vcpu);
    if (rings_) {
        vcpu.set_dirty_ring_reader(this);
    }
}

void DirtyTracker::start() {
    if (way_ != DirtyTracking::none) {
        return;
    }
    const DirtyTracking way = rings_                          ? DirtyTracking::ring
                              : vm_.enable_manual_dirty_log() ? DirtyTracking::manual_log
                                                              : DirtyTracking::log;
    vm_.keep_removed_slots();
    for (MemorySlot slot : vm_.memory_slots()) {
        if (!slot.read_only && memory_.page_of(slot.guest_address)) {
            slot.log_dirty_pages = true;
            vm_.set_memory_slot(slot);
        }
    }
    way_ = way;
}

void DirtyTracker::mark(PageBits& pages, std::uint64_t guest_address, std::uint64_t size_bytes) const noexcept {
    for (std::uint64_t at = 0; at < size_bytes; at += kPageBytes) {
        if (const auto page = memory_.page_of(guest_address + at)) {
            set_page(pages, *page);
        }
    }
}

PageBits DirtyTracker::take() {
    if (way_ == DirtyTracking::none) {
        throw StateError("the guest's writes are not tracked");
    }
    PageBits pages(from_rings_.size());
    bool lost = false;
    try {
        if (rings_) {
            const std::lock_guard lock(mutex_);
            for (Vcpu* const vcpu : vcpus_) {
                read_ring(*vcpu->dirty_ring());
            }
            lost = std::exchange(lost_, false);
            std::swap(pages, from_rings_);
            if (vm_.reset_dirty_rings() < 0) {
                const int saved = errno;
                throw SystemError(saved, "KVM_RESET_DIRTY_RINGS");
            }
        }
        if (lost) {
            protect_again();
        }
        take_log(pages);
    } catch (...) {
        put_back(pages);
        const std::lock_guard lock(mutex_);
        lost_ = lost_ || lost;
        throw;
    }
    memory_.written().take_into(pages);
    return pages;
}

// After rings lost entries: the guest may have written any page, and may go on to write it without another entry. Slots
// that end to log count as written; those that begin to are write-protected.
void DirtyTracker::protect_again() {
    for (MemorySlot slot : vm_.memory_slots()) {
        if (slot.log_dirty_pages) {
            slot.log_dirty_pages = false;
            vm_.set_memory_slot(slot);
            slot.log_dirty_pages = true;
            vm_.set_memory_slot(slot);
        }
    }
}

void DirtyTracker::take_log(PageBits& pages) {
    for (MemorySlot slot : vm_.memory_slots()) {
        if (slot.read_only || !memory_.page_of(slot.guest_address)) {
            continue;
        }
        if (!slot.log_dirty_pages) {
            // Made since by somebody who knows nothing of the tracking: all of it may have been written.
            mark(pages, slot.guest_address, slot.size_bytes);
            slot.log_dirty_pages = true;
            vm_.set_memory_slot(slot);
        } else if (!rings_) {
            for_each_page_run(vm_.dirty_log(slot.slot), [&](std::uint64_t first, std::uint64_t count) {
                mark(pages, slot.guest_address + first * kPageBytes, count * kPageBytes);
            });
        }
    }
    for (const GuestRange& range : vm_.take_removed_slots()) {
        mark(pages, range.guest_address, range.size_bytes);
    }
}

bool DirtyTracker::empty_ring(DirtyRing& ring) noexcept {
    const std::lock_guard lock(mutex_);
    read_ring(ring);
    return vm_.reset_dirty_rings() > 0;
}

void DirtyTracker::read_ring(DirtyRing& ring) noexcept {
    const bool whole = ring.take([this](std::uint32_t number, std::uint64_t slot_page) {
        // A slot that is gone, or another by that number: all pages of the old one count as written already.
        if (const auto slot = vm_.find_memory_slot(number)) {
            mark(from_rings_, slot->guest_address + slot_page * kPageBytes, kPageBytes);
        }
    });
    lost_ = lost_ || !whole;
}

}  // namespace vmthaw
