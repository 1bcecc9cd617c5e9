#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "kvm/kvm.hpp"
#include "kvm/vm.hpp"
#include "machine/dirty_tracker.hpp"
#include "machine/guest_memory.hpp"
#include "machine/payload/mailbox.hpp"
#include "machine/snapshot/machine_state.hpp"
#include "vcpu/exit.hpp"
#include "vcpu/full_registers.hpp"

namespace vmthaw {

struct MachineOptions {
    bool irqchip = false;                  // interrupt controllers and the interval timer in the kernel
    std::uint32_t dirty_ring_entries = 0;  // of each vCPU: the guest's writes are known by rings; 0: by the dirty log
};

// A guest: memory, its slots and its vCPUs, and the protocol of the payload, which runs on a single vCPU. One thread at
// a time may run or save it (a second gets StateError); memory() is anybody's. Throws SystemError, ArgumentError,
// StateError.
class Machine {
public:
    // Fresh vCPUs; load_payload() or restore() comes next.
    explicit Machine(std::shared_ptr<GuestMemory> memory, std::uint32_t vcpus = 1, MachineOptions options = {});
    ~Machine();
    Machine(const Machine&) = delete;
    Machine& operator=(const Machine&) = delete;

    [[nodiscard]] const Kvm& kvm() const noexcept { return kvm_; }
    [[nodiscard]] Vm& vm() noexcept { return vm_; }
    [[nodiscard]] const std::shared_ptr<GuestMemory>& memory() const noexcept { return memory_; }
    [[nodiscard]] std::size_t vcpu_count() const noexcept { return vcpus_.size(); }
    [[nodiscard]] Vcpu& vcpu(std::size_t index);

    // Puts page tables and the payload into memory and the vCPUs at its start, in long mode at CPL 3.
    void load_payload();
    // Runs until an exit, or until the slice is over or a signal came (then nothing). Ends early, never late.
    [[nodiscard]] std::optional<Exit> run_slice(std::size_t index, std::uint64_t slice_ns);

    // Gives the payload a command. StateError while it is at another, or has stopped.
    void start_command(const payload::Command& command);
    // Runs for at most a slice and gives the report when the command is done. Throws Error(GuestError) when the guest
    // stopped instead; then there is no going on.
    [[nodiscard]] std::optional<payload::Report> continue_command(std::uint64_t slice_ns);
    [[nodiscard]] bool is_busy() const noexcept { return busy_; }

    // Keeps other threads from running or saving the machine; StateError when one does already.
    class Hold;
    // Everything that a vCPU holds. The holder sees to it that it does not run: it is frozen, or nobody runs it.
    [[nodiscard]] FullRegisters capture_full(const Hold& hold, std::size_t index);
    // Everything but the memory, who it is and what it lies over. As capture_full(); instructions that are under way
    // are completed, which may write memory; StateError for one that needs another exit first.
    [[nodiscard]] MachineState capture(const Hold& hold);
    // Of a machine with as many vCPUs and an irqchip where the state has one.
    void restore(const MachineState& state);

    // What the guest and the host wrote, for diffs.
    [[nodiscard]] DirtyTracker& dirty() noexcept { return *dirty_; }
    // The snapshot since which dirty() tells, if there is one.
    [[nodiscard]] std::optional<SnapshotBase> base() const;
    void set_base(SnapshotBase base);
    // One at a time saves: what it took from dirty() is in no other snapshot. StateError.
    void begin_saving();
    void end_saving() noexcept { saving_.store(false); }

private:
    Kvm kvm_;
    std::shared_ptr<GuestMemory> memory_;
    Vm vm_;
    std::vector<std::unique_ptr<Vcpu>> vcpus_;
    bool has_irqchip_ = false;
    std::unique_ptr<DirtyTracker> dirty_;
    mutable std::mutex base_mutex_;
    std::optional<SnapshotBase> base_;
    std::atomic<bool> saving_{false};
    std::atomic<bool> in_use_{false};
    bool loaded_ = false;
    std::atomic<bool> busy_{false};
    bool stopped_ = false;
    std::uint64_t sequence_ = 0;
};

class Machine::Hold {
public:
    explicit Hold(Machine& machine);
    ~Hold();
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;

private:
    Machine& machine_;
};

}  // namespace vmthaw
