#pragma once

#include <linux/kvm.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/fork_guard.hpp"
#include "base/unique_fd.hpp"
#include "kvm/memory_slots.hpp"
#include "kvm/vcpu.hpp"

namespace vmthaw {

// One virtual machine's descriptor; move-only. Slots are checked before the kernel sees them and kept for look-up.
// Safe from several threads. Calls throw SystemError and ArgumentError (a slot that names its field); ForkedError in a
// forked child.
class Vm {
public:
    Vm(UniqueFd fd, std::size_t vcpu_mmap_size) : fd_(std::move(fd)), vcpu_mmap_size_(vcpu_mmap_size) {}

    [[nodiscard]] int fd() const noexcept { return fd_.get(); }
    [[nodiscard]] int check_extension(int capability) const;
    // Adds the slot, or changes one of the same number as the kernel allows (flags, guest address).
    void set_memory_slot(const MemorySlot& slot);
    void remove_memory_slot(std::uint32_t slot);
    [[nodiscard]] std::vector<MemorySlot> memory_slots() const;  // by number
    [[nodiscard]] std::optional<MemorySlot> find_memory_slot(std::uint32_t slot) const noexcept;
    // One bit for each page, the first in bit 0 of word 0; set: written since the last call, which clears it.
    [[nodiscard]] std::vector<std::uint64_t> dirty_log(std::uint32_t slot) const;
    // From then on slots that log dirty pages are kept in a list when they are removed or moved, or when their logging
    // ends: their log is lost, so all of them may have been written. take_removed_slots() empties the list.
    void keep_removed_slots();
    [[nodiscard]] bool keeps_removed_slots() const;
    [[nodiscard]] std::vector<GuestRange> take_removed_slots();
    // From then on the log is cleared when it has been read, not while (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2): a copy that
    // fails loses nothing. False where the kernel lacks it; dirty_log() gives the same either way.
    bool enable_manual_dirty_log();
    // Most entries of a vCPU's dirty ring; 0 where the kernel has none.
    [[nodiscard]] std::uint32_t most_dirty_ring_entries() const;
    // Every vCPU made from then on has a ring of so many entries, a power of two, and dirty_log() is refused. Before
    // the first vCPU.
    void enable_dirty_ring(std::uint32_t entries);
    // Gives the entries that were taken back to the kernel, for all vCPUs; -1 and errno.
    [[nodiscard]] int reset_dirty_rings() const noexcept;
    // Interrupt controllers in the kernel. Before the first vCPU; HLT then waits in the kernel.
    void create_irqchip() const;

#if defined(__x86_64__)
    // The interval timer in the kernel, which needs the irqchip.
    void create_pit() const;
    // `chip`: KVM_IRQCHIP_PIC_MASTER, _PIC_SLAVE or _IOAPIC.
    [[nodiscard]] kvm_irqchip irqchip(std::uint32_t chip) const;
    void set_irqchip(const kvm_irqchip& chip) const;
    [[nodiscard]] kvm_pit_state2 pit() const;
    void set_pit(const kvm_pit_state2& pit) const;
    [[nodiscard]] kvm_clock_data clock() const;
    void set_clock(const kvm_clock_data& clock) const;
#endif
    // On aarch64 with the features of preferred_target(). All vCPUs run from the start; for one that waits for PSCI's
    // CPU_ON set its MP state to KVM_MP_STATE_STOPPED.
    [[nodiscard]] Vcpu create_vcpu(std::uint32_t index) const;

#if defined(__aarch64__)
    // What the host's processor is, for Vcpu::init(), and PSCI 0.2 answered by the kernel.
    [[nodiscard]] kvm_vcpu_init preferred_target() const;
#endif

private:
    // The lock of the slots is held by the callers.
    [[nodiscard]] std::vector<std::uint64_t> read_dirty_log(const MemorySlot& slot) const;
    void keep_as_written(const MemorySlot& slot);

    ForkGuard guard_;
    UniqueFd fd_;
    std::size_t vcpu_mmap_size_ = 0;
    std::shared_ptr<MemorySlots> slots_ = std::make_shared<MemorySlots>();
    std::uint32_t dirty_ring_entries_ = 0;
    bool has_manual_dirty_log_ = false;
};

}  // namespace vmthaw
