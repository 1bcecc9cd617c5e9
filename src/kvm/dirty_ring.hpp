#pragma once

#include <linux/kvm.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/mapping.hpp"

namespace vmthaw {

// One vCPU's ring of pages that its guest wrote (KVM_CAP_DIRTY_LOG_RING). One thread at a time, while the vCPU is not
// in the kernel; entries that were taken are the kernel's again after KVM_RESET_DIRTY_RINGS. Source:
// Documentation/virt/kvm/api.rst, 8.29.
class DirtyRing {
public:
    // Throws SystemError.
    DirtyRing(int vcpu_fd, std::uint32_t entries);
    // Over memory of somebody else's, a power of two of entries.
    explicit DirtyRing(std::span<kvm_dirty_gfn> entries) noexcept : entries_(entries) {}

    // Calls `use(slot, page of the slot)` for each entry that is there. False when entries are lost: the kernel looks
    // at the ring's limit before it enters the guest only, keeps 64 entries in reserve, and writes over the oldest when
    // more come at once, as they do from instructions that it emulates.
    template <typename Use>
    [[nodiscard]] bool take(const Use& use) noexcept {
        const std::uint32_t skipped = adrift_ ? gap() : 0;
        if (skipped == size()) {
            return true;
        }
        std::uint32_t taken = 0;
        for (; taken < size() && is_dirty(next_ + skipped + taken); ++taken) {
            const kvm_dirty_gfn& entry = at(next_ + skipped + taken);
            use(entry.slot & 0xFFFFU, entry.offset);
        }
        const std::uint32_t given_back = std::min(skipped + taken, size());
        for (std::uint32_t i = 0; i < given_back; ++i) {
            std::atomic_ref(at(next_ + i).flags).store(KVM_DIRTY_GFN_F_RESET, std::memory_order_release);
        }
        next_ += given_back;
        adrift_ = taken == size() || skipped + taken > size();
        return !adrift_;
    }

private:
    [[nodiscard]] std::uint32_t size() const noexcept { return static_cast<std::uint32_t>(entries_.size()); }
    [[nodiscard]] kvm_dirty_gfn& at(std::uint32_t index) const noexcept { return entries_[index % entries_.size()]; }
    // The kernel publishes slot and offset by the flag.
    [[nodiscard]] bool is_dirty(std::uint32_t index) const noexcept {
        return (std::atomic_ref(at(index).flags).load(std::memory_order_acquire) & KVM_DIRTY_GFN_F_DIRTY) != 0;
    }
    // How far the first new entry lies from where the kernel gives back next; size(): there is none.
    [[nodiscard]] std::uint32_t gap() const noexcept;

    Mapping mapping_;
    std::span<kvm_dirty_gfn> entries_;
    std::uint32_t next_ = 0;  // as the kernel's index of what it gives back
    // The kernel wrote past its own end, nobody knows how far: new entries begin somewhere behind next_.
    bool adrift_ = false;
};

// Somebody who takes what is in the ring of a vCPU that cannot go on: its ring is full.
class DirtyRingReader {
public:
    // On the vCPU's thread. False when nothing could be freed: then the vCPU comes out.
    virtual bool empty_ring(DirtyRing& ring) noexcept = 0;

protected:
    ~DirtyRingReader() = default;
};

}  // namespace vmthaw
