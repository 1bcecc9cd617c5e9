#pragma once

#include <linux/kvm.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/fork_guard.hpp"
#include "base/mapping.hpp"
#include "base/unique_fd.hpp"
#include "kernel/kvm.hpp"
#include "kvm/dirty_ring.hpp"
#include "kvm/memory_slots.hpp"

namespace vmthaw {

struct RunResult {
    int result = 0;       // of KVM_RUN
    int errno_value = 0;  // 0 when result is not negative
};

// One virtual CPU's descriptor and its shared mapping (struct kvm_run first); move-only. run() never throws; the rest
// throws SystemError, and ForkedError in a forked child. One thread at a time, but for set_immediate_exit().
class Vcpu {
public:
    Vcpu(UniqueFd fd, std::size_t mmap_size, std::size_t xsave_bytes,
         std::shared_ptr<MemorySlots> slots = std::make_shared<MemorySlots>());

    [[nodiscard]] int fd() const noexcept { return fd_.get(); }
    // KVM_RUN, once (and again when a full dirty ring was emptied). EINTR and EAGAIN mean "again"; after an error the
    // mapping's exit reason is an old one, unless it is MEMORY_FAULT (decode_exit knows).
    [[nodiscard]] RunResult run() noexcept;
    // The KVM_RUNs so far, drains too: says which of them the mapping's exit is of. Any thread may ask whether the vCPU
    // has run on since; that it does not do so right afterwards is the caller's business.
    [[nodiscard]] std::uint64_t runs() const noexcept { return std::atomic_ref(runs_).load(std::memory_order_relaxed); }
    // While true, run() comes back with EINTR as soon as the guest would go on. Any thread, also a signal handler.
    void set_immediate_exit(bool value) noexcept {
        immediate_exit_byte().store(value ? 1 : 0, std::memory_order_release);
    }
    [[nodiscard]] bool immediate_exit() const noexcept {
        return immediate_exit_byte().load(std::memory_order_acquire) != 0;
    }
    // The whole mapping, as decode_exit takes it; changes with every run().
    [[nodiscard]] std::span<std::byte> run_bytes() const noexcept { return mapping_.bytes(); }
    // Completes a pending I/O or MMIO instruction without running on: afterwards the registers are true. One that comes
    // out again (it stores more than an exit carries) waits for its next answer: the next run() gives that exit. Gives
    // 0, or the errno of a KVM_RUN that failed (EINTR is the good answer).
    [[nodiscard]] int drain() noexcept;
    // After a drain: the instruction came out again, and the registers are those within it.
    [[nodiscard]] bool has_next_exit() const noexcept { return has_next_exit_; }
    // The last exit was SHUTDOWN: a back end may have reset the registers since (kvm_amd does), so a capture tells
    // nothing of where the guest was.
    [[nodiscard]] bool has_shut_down() const noexcept { return has_shut_down_; }
    // The slots of its VM, now. Any thread.
    [[nodiscard]] std::vector<MemorySlot> memory_slots() const;
    // Pages that the guest wrote, where the VM has dirty rings; else null. While the reader is set, run() has it empty
    // a ring that is full, and goes on. Not while the vCPU runs.
    void map_dirty_ring(std::uint32_t entries) { dirty_ring_ = std::make_unique<DirtyRing>(fd_.get(), entries); }
    [[nodiscard]] DirtyRing* dirty_ring() const noexcept { return dirty_ring_.get(); }
    void set_dirty_ring_reader(DirtyRingReader* reader) noexcept { dirty_ring_reader_ = reader; }
    // Throws ForkedError in a forked child, where the mapping is still the parent's.
    void check_process() const { guard_.check("Vcpu"); }

    // A GET ioctl that neither throws nor allocates: 0 or the errno (ENODEV in a forked child).
    [[nodiscard]] int try_get(unsigned long request, void* out) const noexcept;
    // KVM_GET_ONE_REG of a register of 8 bytes; nothing when it cannot be read.
    [[nodiscard]] std::optional<std::uint64_t> try_one_reg(std::uint64_t id) const noexcept;
    // KVM_GET_ONE_REG, KVM_SET_ONE_REG and KVM_GET_REG_LIST, for architectures that have them. Bytes must be as many as
    // the number says, else ArgumentError.
    void one_reg(std::uint64_t id, std::span<std::byte> out) const;
    void set_one_reg(std::uint64_t id, std::span<const std::byte> value) const;
    void set_one_reg(std::uint64_t id, std::uint64_t value) const;  // of a register of 8 bytes
    [[nodiscard]] std::vector<std::uint64_t> reg_list() const;

    [[nodiscard]] kvm_regs regs() const;
    void set_regs(const kvm_regs& regs) const;
    [[nodiscard]] kvm_mp_state mp_state() const;
    void set_mp_state(const kvm_mp_state& state) const;

#if defined(__x86_64__)
    [[nodiscard]] kvm_sregs sregs() const;
    void set_sregs(const kvm_sregs& sregs) const;
    [[nodiscard]] kvm_fpu fpu() const;
    void set_fpu(const kvm_fpu& fpu) const;
    // As large as KVM_CAP_XSAVE2 says, at least 4096 bytes.
    [[nodiscard]] std::vector<std::byte> xsave() const;
    void set_xsave(std::span<const std::byte> area) const;
    [[nodiscard]] std::size_t xsave_bytes() const noexcept { return xsave_bytes_; }
    [[nodiscard]] kvm_xcrs xcrs() const;
    void set_xcrs(const kvm_xcrs& xcrs) const;
    [[nodiscard]] kvm_debugregs debugregs() const;
    void set_debugregs(const kvm_debugregs& registers) const;
    // Of the interrupt controller in the kernel; SystemError (EINVAL) without one.
    [[nodiscard]] kvm_lapic_state lapic() const;
    void set_lapic(const kvm_lapic_state& state) const;
    [[nodiscard]] kvm_vcpu_events vcpu_events() const;
    void set_vcpu_events(const kvm_vcpu_events& events) const;
    // Reads what can be read of `indices`: a register that the kernel lists but this vCPU lacks is left out.
    [[nodiscard]] std::vector<kvm_msr_entry> msrs(std::span<const std::uint32_t> indices) const;
    // Writes all or throws; the error names the register. One that the kernel refuses but that has the value already
    // (KVM lists some that it lets a guest without the feature read alone) is no error.
    void set_msrs(std::span<const kvm_msr_entry> values) const;
    [[nodiscard]] std::vector<kvm_cpuid_entry2> cpuid() const;
    void set_cpuid(std::span<const kvm_cpuid_entry2> entries) const;
#elif defined(__aarch64__)
    // KVM_ARM_VCPU_INIT: the state after a reset, at EL1 with the MMU off. Vm::create_vcpu() did it once already.
    void init(const kvm_vcpu_init& target) const;
#endif

private:
    // The kernel reads this byte on entry; other threads and signal handlers write it.
    [[nodiscard]] std::atomic_ref<std::uint8_t> immediate_exit_byte() const noexcept {
        return std::atomic_ref(*reinterpret_cast<std::uint8_t*>(mapping_.data() + kKvmRunImmediateExit));
    }
    void get(unsigned long request, void* out, const char* operation) const;
    void set(unsigned long request, const void* value, const char* operation) const;

    ForkGuard guard_;
    UniqueFd fd_;
    Mapping mapping_;
    std::size_t xsave_bytes_ = 0;
    std::shared_ptr<MemorySlots> slots_;
    mutable std::uint64_t runs_ = 0;  // through atomic_ref alone: a std::atomic could not be moved
    bool has_shut_down_ = false;
    bool has_next_exit_ = false;  // the mapping holds one that run() has not given
    std::unique_ptr<DirtyRing> dirty_ring_;
    DirtyRingReader* dirty_ring_reader_ = nullptr;
};

}  // namespace vmthaw
