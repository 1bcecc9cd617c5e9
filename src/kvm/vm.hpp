#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "base/fork_guard.hpp"
#include "base/unique_fd.hpp"
#include "kvm/vcpu.hpp"

namespace vmthaw {

// One run of guest-physical memory, in bytes; every number is a multiple of 4096.
struct MemorySlot {
    std::uint32_t slot = 0;
    std::uint64_t guest_address = 0;
    std::uint64_t host_address = 0;  // of memory that outlives the slot
    std::uint64_t size_bytes = 0;
    bool read_only = false;        // writes exit as MMIO
    bool log_dirty_pages = false;  // see dirty_log
};

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
    [[nodiscard]] Vcpu create_vcpu(std::uint32_t index) const;

private:
    ForkGuard guard_;
    UniqueFd fd_;
    std::size_t vcpu_mmap_size_ = 0;
    struct Slots {
        std::mutex mutex;
        std::map<std::uint32_t, MemorySlot> by_number;
    };
    std::unique_ptr<Slots> slots_ = std::make_unique<Slots>();
};

}  // namespace vmthaw
