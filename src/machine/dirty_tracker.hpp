#pragma once

#include <cstdint>
#include <mutex>
#include <vector>

#include "kvm/dirty_ring.hpp"
#include "kvm/vcpu.hpp"
#include "kvm/vm.hpp"
#include "machine/guest_memory.hpp"
#include "machine/page_bits.hpp"

namespace vmthaw {

// How the guest's writes are known.
enum class DirtyTracking : std::uint8_t {
    none,        // not yet
    log,         // KVM_GET_DIRTY_LOG, which clears what it gives
    manual_log,  // and KVM_CLEAR_DIRTY_LOG, which clears it after
    ring,        // a ring for each vCPU
};
[[nodiscard]] const char* dirty_tracking_name(DirtyTracking way) noexcept;

// Which pages were written since they were last taken: by the guest, as KVM says, and by the host, as the memory says
// (GuestMemory::written). When in doubt a page was written. start() and take() come while no vCPU runs, on one thread
// at a time; the rest is anybody's. Throws SystemError.
class DirtyTracker final : private DirtyRingReader {
public:
    // `rings`: the VM's vCPUs have dirty rings, which are read.
    DirtyTracker(Vm& vm, const GuestMemory& memory, bool rings);
    DirtyTracker(const DirtyTracker&) = delete;
    DirtyTracker& operator=(const DirtyTracker&) = delete;
    ~DirtyTracker() = default;

    void add_vcpu(Vcpu& vcpu);  // which outlives the tracker's use
    // Idempotent. Slots that are read-only are the host's alone to write; those beyond the memory are nobody's here.
    void start();
    [[nodiscard]] DirtyTracking way() const noexcept { return way_; }
    // By page of a memory file. StateError before start().
    [[nodiscard]] PageBits take();
    // What was taken for nothing is written still.
    void put_back(const PageBits& pages) noexcept { memory_.written().put_back(pages); }

private:
    bool empty_ring(DirtyRing& ring) noexcept override;
    void read_ring(DirtyRing& ring) noexcept;  // the lock is held
    void protect_again();
    void take_log(PageBits& pages);
    void mark(PageBits& pages, std::uint64_t guest_address, std::uint64_t size_bytes) const noexcept;

    Vm& vm_;
    const GuestMemory& memory_;
    const bool rings_;
    DirtyTracking way_ = DirtyTracking::none;
    std::vector<Vcpu*> vcpus_;
    std::mutex mutex_;  // of what follows; a vCPU whose ring is full waits for it
    PageBits from_rings_;
    bool lost_ = false;  // entries of a ring
};

}  // namespace vmthaw
