#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
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
    // One bit for each page, the first in bit 0 of word 0; set: written since the last call, which clears it.
    [[nodiscard]] std::vector<std::uint64_t> dirty_log(std::uint32_t slot) const;
    // Interrupt controllers and timer in the kernel. Before the first vCPU; HLT then waits in the kernel.
    void create_irqchip() const;
    // On aarch64 with the features of preferred_target(). All vCPUs run from the start; for one that waits for PSCI's
    // CPU_ON set its MP state to KVM_MP_STATE_STOPPED.
    [[nodiscard]] Vcpu create_vcpu(std::uint32_t index) const;

#if defined(__aarch64__)
    // What the host's processor is, for Vcpu::init(), and PSCI 0.2 answered by the kernel.
    [[nodiscard]] kvm_vcpu_init preferred_target() const;
#endif

private:
    ForkGuard guard_;
    UniqueFd fd_;
    std::size_t vcpu_mmap_size_ = 0;
    std::shared_ptr<MemorySlots> slots_ = std::make_shared<MemorySlots>();
};

}  // namespace vmthaw
