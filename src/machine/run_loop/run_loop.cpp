#include "machine/run_loop/run_loop.hpp"

#include <chrono>
#include <string>
#include <utility>

#include "base/error.hpp"
#include "base/page.hpp"
#include "machine/capture_registers.hpp"
#include "machine/exit_registers.hpp"
#include "machine/run_loop/memory_error_scope.hpp"
#include "vcpu/exit_classifier.hpp"

namespace vmthaw {
namespace {

constexpr std::uint32_t kExitHlt = 5;
constexpr std::uint32_t kExitInterrupted = 10;  // KVM_EXIT_INTR, beside EINTR

}  // namespace

// Counts the threads that are inside, so that nobody takes the vCPUs away under one.
class RunLoop::Presence {
public:
    explicit Presence(RunLoop& loop) : loop_(loop) {
        const std::lock_guard lock(loop_.mutex_);
        ++loop_.present_;
    }
    ~Presence() {
        const std::lock_guard lock(loop_.mutex_);
        --loop_.present_;
        loop_.changed_.notify_all();
    }
    Presence(const Presence&) = delete;
    Presence& operator=(const Presence&) = delete;

private:
    RunLoop& loop_;
};

RunLoop::RunLoop(const std::vector<Vcpu*>& vcpus, std::shared_ptr<const Dispatcher> dispatcher, ExitFilter filter,
                 std::shared_ptr<ExitHandler> handler, RunLoopOptions options)
    : vcpus_(vcpus),
      dispatcher_(std::move(dispatcher)),
      filter_(std::move(filter)),
      handler_(std::move(handler)),
      options_(std::move(options)),
      freezer_(vcpus),
      clock_(options_.record_capacity > 0),
      counters_(vcpus.size()) {
    if (vcpus.empty() || !dispatcher_) {
        throw ArgumentError("a run loop needs vCPUs and a dispatcher");
    }
    if (!filter_.empty() && !handler_) {
        throw ArgumentError("exits are to go to a handler, but there is none");
    }
    if (options_.watchpoints && options_.watchpoints->vcpu_count() != vcpus.size()) {
        throw ArgumentError("watchpoints for " + std::to_string(options_.watchpoints->vcpu_count()) +
                            " vCPUs, but the run loop has " + std::to_string(vcpus.size()));
    }
    if (options_.record_capacity > 0) {
        records_ = std::make_unique<Ring<ExitRecord>>(options_.record_capacity);
    }
}

// What every exit passes through is `hot`, here and in the rooms below: the linker puts it together. After the guest
// little of the process is in the caches, and each page of code is a miss of its own.
[[gnu::hot]] void RunLoop::run_vcpu(std::size_t index) {
    const Presence presence(*this);
    FreezeCoordinator::Attachment thread(freezer_, index);
    Vcpu& vcpu = *vcpus_[index];
    vcpu.check_process();
    MemoryErrorScope memory_errors(vcpu);
    {
        const std::lock_guard lock(mutex_);
        ++begun_;
        changed_.notify_all();
    }
    const bool has_other_work = records_ || options_.watchpoints;  // between an answer and the next KVM_RUN
    std::uint64_t clock = 0;
    std::uint64_t request = ~std::uint64_t{0};
    while (thread.head() == LoopHead::run) {
        if (options_.watchpoints) {
            options_.watchpoints->prepare(index, vcpu);
        }
        memory_errors.forget_address();  // of a KVM_RUN that completed an instruction; this one will say so too
        // When the last answer was decided is when this run begins, if the thread was not parked between: each reading
        // of the clock is felt in what the loop adds to an exit.
        const std::uint64_t now = thread.request();
        if (has_other_work || std::exchange(request, now) != now) {
            clock = clock_.now();
        }
        if (!run_once(index, vcpu, memory_errors, clock)) {
            return;
        }
    }
}

[[gnu::hot]] bool RunLoop::run_once(std::size_t index, Vcpu& vcpu, MemoryErrorScope& memory_errors,
                                    std::uint64_t& clock) noexcept {
    const ExitProfile profile = dispatcher_->profile();
    const GuestArch arch = dispatcher_->arch();
    RunResult outcome = vcpu.run();
    for (;;) {
        const std::uint64_t t_enter = clock;
        const std::uint64_t t_exit = clock_.now();
        Exit exit = classify_exit(profile, arch, outcome.result, outcome.errno_value, vcpu.run_bytes());
        if (exit.is_interrupted() || (exit.has_reason && exit.reason == kExitInterrupted)) {
            counters_[index].count_interruption(t_exit - t_enter);
            clock = t_exit;
            if (const auto address = memory_errors.take_address()) {
                finish(poisoned_page(index, *address));
                return false;
            }
            return true;
        }
        keep_registers(vcpu, exit);
        const WatchAnswer watched =
            options_.watchpoints ? options_.watchpoints->handle(index, vcpu, exit, outcome) : WatchAnswer::not_ours;
        Decision decision =
            watched == WatchAnswer::not_ours ? decide(index, exit, vcpu) : decide_watched(index, exit, vcpu);
        decision.has_next = watched == WatchAnswer::again;
        const std::uint64_t t_decided = clock_.now();
        counters_[index].count_exit(exit.has_reason ? exit.reason : VcpuCounters::kReasons - 1, t_exit - t_enter,
                                    t_decided - t_exit);
        if (records_) {
            record(index, exit, decision, t_enter, t_exit, t_decided);
        }
        if (!conclude(index, exit, decision)) {
            return false;
        }
        clock = t_decided;  // also of an exit that came out again, without having been in the guest
        if (!decision.has_next) {
            return true;
        }
    }
}

[[gnu::hot]] RunLoop::Decision RunLoop::decide(std::size_t index, const Exit& exit, Vcpu& vcpu) noexcept {
    bool by_handler = false;
    if (const auto entry = filter_.empty() ? std::nullopt : filter_.find(exit)) {
        by_handler = true;
        counters_[index].count_handled();
        if (const auto action = handler_->handle(index, exit, vcpu, *entry)) {
            return {.action = *action, .by_handler = true};
        }
    }
    const BusWindow* failed = nullptr;
    Decision decision{.action = dispatcher_->perform(exit, vcpu.run_bytes(), &failed)};
    decision.failed = failed;
    decision.by_handler = by_handler;
    return decision;
}

// The guest touched a poisoned page: said as KVM says it where it has the exit for it (KVM_CAP_MEMORY_FAULT_INFO).
RunEnd RunLoop::poisoned_page(std::size_t index, std::uint64_t host_address) const {
    RunEnd end{RunEndKind::fatal, index, {}, {ExitActionKind::fatal, kErrnoHwPoison}, {}};
    end.exit.result = -1;
    end.exit.errno_value = kErrnoHwPoison;
    for (const MemorySlot& slot : vcpus_[index]->memory_slots()) {
        if (host_address >= slot.host_address && host_address - slot.host_address < slot.size_bytes) {
            end.exit.has_reason = true;
            end.exit.reason = kKvmExitMemoryFault;
            const std::uint64_t guest_address = slot.guest_address + (host_address - slot.host_address);
            end.exit.payload = MemoryFaultExit{0, guest_address / kPageBytes * kPageBytes, kPageBytes};
        }
    }
    return end;
}

// The exit has been seen to. A handler of debug exits may still look at the guest, and end the run.
RunLoop::Decision RunLoop::decide_watched(std::size_t index, const Exit& exit, Vcpu& vcpu) noexcept {
    Decision decision;
    decision.action.kind = ExitActionKind::continue_;
    if (const auto entry = exit.reason == kKvmExitDebug ? filter_.find(exit) : std::nullopt) {
        decision.by_handler = true;
        counters_[index].count_handled();
        decision.action = handler_->handle(index, exit, vcpu, *entry).value_or(decision.action);
    }
    return decision;
}

[[gnu::hot]] bool RunLoop::conclude(std::size_t index, const Exit& exit, const Decision& decision) noexcept {
    if (decision.action.kind == ExitActionKind::continue_) {
        return true;  // almost always: no end is made, which holds a copy of the exit
    }
    RunEnd end{RunEndKind::unhandled, index, exit, decision.action, {}};
    switch (decision.action.kind) {
        case ExitActionKind::continue_:
            break;
        case ExitActionKind::shutdown:
            end.kind = RunEndKind::shutdown;
            break;
        case ExitActionKind::fatal:
            end.kind = RunEndKind::fatal;
            break;
        case ExitActionKind::none:
            // With an interrupt controller in the kernel a HLT waits there and never comes out. To run on would spin.
            end.kind = exit.has_reason && exit.reason == kExitHlt ? RunEndKind::halted : RunEndKind::unhandled;
            break;
    }
    if (decision.failed != nullptr) {
        end.device = decision.failed->name;
    }
    finish(std::move(end));
    return false;
}

void RunLoop::finish(RunEnd end) noexcept {
    {
        const std::lock_guard lock(mutex_);
        if (!end_) {
            end_ = std::move(end);
        }
        changed_.notify_all();
    }
    freezer_.kill();  // refused in a forked child alone, where no vCPU runs
}

void RunLoop::stop() {
    guard_.check("RunLoop");
    finish({});
}

bool RunLoop::wait(std::uint64_t timeout_ns) {
    guard_.check("RunLoop");
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::nanoseconds(timeout_ns),
                             [this] { return end_.has_value() && present_ == 0; });
}

bool RunLoop::wait_begun(std::uint64_t timeout_ns) {
    guard_.check("RunLoop");
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::nanoseconds(timeout_ns),
                             [this] { return end_.has_value() || begun_ == vcpus_.size(); });
}

std::optional<RunEnd> RunLoop::end() const {
    const std::lock_guard lock(mutex_);
    return end_;
}

void RunLoop::record(std::size_t index, const Exit& exit, const Decision& decision, std::uint64_t t_enter_ns,
                     std::uint64_t t_exit_ns, std::uint64_t t_decided_ns) noexcept {
    ExitRecord record;
    record.t_enter_ns = t_enter_ns;
    record.t_exit_ns = t_exit_ns;
    record.t_decided_ns = t_decided_ns;
    record.vcpu = static_cast<std::uint16_t>(index);
    record.reason = exit.has_reason ? exit.reason : kExitRecordFailed;
    record.error = exit.has_reason ? 0 : exit.errno_value;
    record.action = static_cast<std::uint8_t>(decision.action.kind);
    record.flags = decision.by_handler ? kExitRecordHandler : std::uint8_t{0};
    bool is_write = false;
    if (const auto* io = std::get_if<IoExit>(&exit.payload)) {
        record.address = io->port;
        record.length = static_cast<std::uint32_t>(io->data_bytes());
        is_write = io->is_write;
    } else if (const auto* mmio = std::get_if<MmioExit>(&exit.payload)) {
        record.address = mmio->guest_address;
        record.length = mmio->size_bytes;
        is_write = mmio->is_write;
    }
    record.flags |= is_write ? kExitRecordWrite : std::uint8_t{0};
    if (options_.record_registers && !decision.has_next) {
        // An answered instruction is completed first: before that RIP and RAX are those of before it. One that nobody
        // answered stays as it is.
        Vcpu& vcpu = *vcpus_[index];
        if (decision.action.kind == ExitActionKind::continue_) {
            (void)vcpu.drain();
        }
        if (const auto registers = read_registers(vcpu)) {
            record.instruction_pointer = registers->instruction_pointer;
            record.stack_pointer = registers->stack_pointer;
            record.page_table_root = registers->page_table_root;
            record.flags |= kExitRecordRegisters;
        }
    }
    (void)records_->push(record);
}

}  // namespace vmthaw
