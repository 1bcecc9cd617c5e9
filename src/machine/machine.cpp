#include "machine/machine.hpp"

#include <cstring>
#include <string>

#include "base/error.hpp"
#include "machine/capture_full.hpp"
#include "machine/payload/load_payload.hpp"
#include "machine/run_timer.hpp"

namespace vmthaw {
namespace {

constexpr std::uint32_t kMostVcpus = 255;  // what the state of an interrupt controller can name

bool is_done(const Exit& exit) {
    const auto* io = std::get_if<IoExit>(&exit.payload);
    return io != nullptr && io->is_write && io->port == payload::kDonePort;
}

}  // namespace

// A flag and no lock: a second thread is a caller's mistake, and must not wait for a guest that may run for ever.
Machine::Hold::Hold(Machine& machine) : machine_(machine) {
    if (machine.in_use_.exchange(true, std::memory_order_acquire)) {
        throw StateError("another thread runs or saves this machine");
    }
}

Machine::Hold::~Hold() { machine_.in_use_.store(false, std::memory_order_release); }

Machine::Machine(std::shared_ptr<GuestMemory> memory, std::uint32_t vcpus, MachineOptions options)
    : memory_(std::move(memory)), vm_(kvm_.create_vm()) {
    if (vcpus == 0 || vcpus > kMostVcpus) {
        throw ArgumentError("a machine has 1 to " + std::to_string(kMostVcpus) + " vCPUs, not " +
                            std::to_string(vcpus));
    }
    if (options.irqchip) {
        vm_.create_irqchip();
#if defined(__x86_64__)
        vm_.create_pit();
#endif
        has_irqchip_ = true;
    }
    if (options.dirty_ring_entries > 0) {
        vm_.enable_dirty_ring(options.dirty_ring_entries);
    }
    dirty_ = std::make_unique<DirtyTracker>(vm_, *memory_, options.dirty_ring_entries > 0);
    std::uint32_t slot = 0;
    for (const GuestRegion& region : memory_->regions()) {
        vm_.set_memory_slot({slot++, region.guest_address, region.host_address(), region.size_bytes, false, false});
    }
    for (std::uint32_t index = 0; index < vcpus; ++index) {
        vcpus_.push_back(std::make_unique<Vcpu>(vm_.create_vcpu(index)));
        dirty_->add_vcpu(*vcpus_.back());
    }
}

Machine::~Machine() = default;

Vcpu& Machine::vcpu(std::size_t index) {
    if (index >= vcpus_.size()) {
        throw ArgumentError("there is no vCPU " + std::to_string(index) + "; this machine has " +
                            std::to_string(vcpus_.size()));
    }
    return *vcpus_[index];
}

void Machine::load_payload() {
    const Hold hold(*this);
    payload::load_payload(*memory_);
    for (std::uint32_t index = 0; index < vcpus_.size(); ++index) {
        payload::start_at_payload(kvm_, *vcpus_[index], index);
    }
    loaded_ = true;
    busy_ = false;
    stopped_ = false;
    sequence_ = 0;
}

std::optional<Exit> Machine::run_slice(std::size_t index, std::uint64_t slice_ns) {
    Vcpu& target = vcpu(index);
    target.check_process();
    const Hold hold(*this);
    const RunTimer timer(target, slice_ns);
    // Clear, then look, then run: a kick after the look has set it again, and ends KVM_RUN at once.
    target.set_immediate_exit(false);
    if (RunTimer::has_fired()) {
        return std::nullopt;
    }
    const RunResult outcome = target.run();
    Exit exit = decode_exit(kHostArch, outcome.result, outcome.errno_value, target.run_bytes());
    target.set_immediate_exit(false);
    if (exit.is_interrupted()) {
        return std::nullopt;
    }
    return exit;
}

void Machine::start_command(const payload::Command& command) {
    const Hold hold(*this);
    if (!loaded_) {
        throw StateError("the machine has no payload; call load_payload() or restore a snapshot first");
    }
    if (stopped_) {
        throw StateError("the guest has stopped; restore or load it again");
    }
    if (busy_) {
        throw StateError("the guest is still at its last command; wait for it with finish()");
    }
    payload::check_command(command, memory_->size_bytes());
    const auto bytes = memory_->at(payload::kMailboxAddress, sizeof(payload::Mailbox));
    auto* const mailbox = reinterpret_cast<payload::Mailbox*>(bytes.data());
    mailbox->command = command;
    mailbox->sequence = ++sequence_;
    memory_->mark_written(payload::kMailboxAddress, sizeof(payload::Mailbox));
    busy_ = true;
}

std::optional<payload::Report> Machine::continue_command(std::uint64_t slice_ns) {
    if (!busy_) {
        throw StateError("the guest is at no command");
    }
    const std::optional<Exit> exit = run_slice(0, slice_ns);
    if (!exit) {
        return std::nullopt;
    }
    payload::Report report{};
    if (is_done(*exit)) {
        memory_->read(payload::kMailboxAddress + offsetof(payload::Mailbox, report),
                      std::as_writable_bytes(std::span(&report, 1)));
        busy_ = false;
        if (report.sequence == sequence_) {
            return report;
        }
    }
    busy_ = false;
    stopped_ = true;
    const std::string what = is_done(*exit) ? "it answered command " + std::to_string(report.sequence) +
                                                  " instead of " + std::to_string(sequence_)
                                            : "its vCPU came out with " + exit->describe();
    throw Error("the guest has stopped: " + what, "GuestError",
                {{"exit", exit->name()}, {"description", exit->describe()}});
}

FullRegisters Machine::capture_full(const Hold& /*hold*/, std::size_t index) {
    Vcpu& target = vcpu(index);
    return vmthaw::capture_full(kvm_, target);
}

MachineState Machine::capture(const Hold& /*hold*/) {
    MachineState state;
    for (std::size_t index = 0; index < vcpus_.size(); ++index) {
        state.vcpus.push_back(capture_vcpu(kvm_, *vcpus_[index], has_irqchip_));
        if (vcpus_[index]->has_next_exit()) {
            throw StateError("vCPU " + std::to_string(index) +
                             " is within an instruction that goes to a device in several parts, which no state has: "
                             "run it to its next exit, then save it");
        }
    }
    state.vm = capture_vm(vm_, has_irqchip_);
    state.memory_bytes = memory_->size_bytes();
    state.has_payload = loaded_;
    state.busy = busy_;
    state.sequence = sequence_;
    return state;
}

void Machine::restore(const MachineState& state) {
    const Hold hold(*this);
    if (state.vcpus.size() != vcpus_.size()) {
        throw ArgumentError("the state has " + std::to_string(state.vcpus.size()) + " vCPUs; this machine has " +
                            std::to_string(vcpus_.size()));
    }
    if (state.vm.has_irqchip() != has_irqchip_) {
        throw ArgumentError(has_irqchip_ ? "the state has no interrupt controller; this machine has one"
                                         : "the state has an interrupt controller; this machine has none");
    }
    for (std::size_t i = 0; i < state.vcpus.size(); ++i) {
        restore_vcpu(*vcpus_[i], state.vcpus[i]);
    }
    restore_vm(vm_, state.vm);
    loaded_ = state.has_payload;
    busy_ = state.busy;
    stopped_ = false;
    sequence_ = state.sequence;
}

std::optional<SnapshotBase> Machine::base() const {
    const std::lock_guard lock(base_mutex_);
    return base_;
}

void Machine::set_base(SnapshotBase base) {
    const std::lock_guard lock(base_mutex_);
    base_ = std::move(base);
}

void Machine::begin_saving() {
    if (saving_.exchange(true)) {
        throw StateError("another thread runs or saves this machine");
    }
}

}  // namespace vmthaw
