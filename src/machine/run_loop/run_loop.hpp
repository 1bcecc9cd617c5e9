#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "base/fork_guard.hpp"
#include "base/ring.hpp"
#include "base/tick_clock.hpp"
#include "kvm/vcpu.hpp"
#include "machine/dispatcher.hpp"
#include "machine/freeze/freeze_coordinator.hpp"
#include "machine/run_loop/exit_filter.hpp"
#include "machine/run_loop/exit_handler.hpp"
#include "machine/run_loop/memory_error_scope.hpp"
#include "machine/run_loop/run_end.hpp"
#include "machine/run_loop/run_stats.hpp"
#include "machine/watchpoints/watchpoints.hpp"
#include "trace/exit_record.hpp"

namespace vmthaw {

struct RunLoopOptions {
    std::size_t record_capacity = 0;  // of the ring of exit records; 0: none are made
    bool record_registers = false;    // drained and captured after each exit, which costs two ioctls and a KVM_RUN
    std::shared_ptr<Watchpoints> watchpoints{};  // for as many vCPUs; armed before each KVM_RUN, and see its exit first
};

// One run of a guest: a thread for each vCPU calls run_vcpu(), until the end of one ends all. Exits go to the handler,
// where the filter says so, else to the dispatcher. Threads may be frozen meanwhile (freezer()). The vCPUs outlive it;
// handler and dispatcher are owned together with others. Everything may be called on any thread; a run ends for good.
class RunLoop {
public:
    RunLoop(const std::vector<Vcpu*>& vcpus, std::shared_ptr<const Dispatcher> dispatcher, ExitFilter filter,
            std::shared_ptr<ExitHandler> handler, RunLoopOptions options = {});

    // The calling thread is the vCPU's until the run ends. Throws ArgumentError, StateError (it has a thread already),
    // ForkedError, SystemError before the guest runs; never later. Nothing in it allocates between two exits.
    void run_vcpu(std::size_t index);

    // True when every vCPU has its thread, so that a freeze means all of them, or the run has ended already.
    [[nodiscard]] bool wait_begun(std::uint64_t timeout_ns);
    // Ends the run, if nothing else has. Idempotent. ForkedError in a forked child, as wait().
    void stop();
    // True when the run has ended and no thread is in run_vcpu() any more.
    [[nodiscard]] bool wait(std::uint64_t timeout_ns);
    // How it ended; nothing while it runs.
    [[nodiscard]] std::optional<RunEnd> end() const;

    [[nodiscard]] FreezeCoordinator& freezer() noexcept { return freezer_; }
    [[nodiscard]] std::size_t vcpu_count() const noexcept { return vcpus_.size(); }
    [[nodiscard]] const VcpuCounters& counters(std::size_t index) const { return counters_.at(index); }
    // In KVM_RUN, and between two of them but for the time in which the thread was parked.
    [[nodiscard]] std::uint64_t guest_ns(std::size_t index) const {
        return clock_.to_ns(counters(index).guest_ticks());
    }
    [[nodiscard]] std::uint64_t host_ns(std::size_t index) const { return clock_.to_ns(counters(index).host_ticks()); }
    // Null when no records are made.
    [[nodiscard]] Ring<ExitRecord>* records() noexcept { return records_.get(); }

private:
    struct Decision {
        ExitAction action;
        const BusWindow* failed = nullptr;
        bool by_handler = false;
        bool has_next = false;  // the mapping holds another exit already
    };
    class Presence;

    // One KVM_RUN and what it came to, which may be several exits. `clock` is when it is called, and becomes when the
    // last of them was answered. False: the run is over.
    [[nodiscard]] bool run_once(std::size_t index, Vcpu& vcpu, MemoryErrorScope& memory_errors,
                                std::uint64_t& clock) noexcept;
    [[nodiscard]] Decision decide(std::size_t index, const Exit& exit, Vcpu& vcpu) noexcept;
    [[nodiscard]] Decision decide_watched(std::size_t index, const Exit& exit, Vcpu& vcpu) noexcept;
    // Whether the loop goes on.
    [[nodiscard]] bool conclude(std::size_t index, const Exit& exit, const Decision& decision) noexcept;
    [[nodiscard]] RunEnd poisoned_page(std::size_t index, std::uint64_t host_address) const;
    void finish(RunEnd end) noexcept;
    void record(std::size_t index, const Exit& exit, const Decision& decision, std::uint64_t t_enter_ns,
                std::uint64_t t_exit_ns, std::uint64_t t_decided_ns) noexcept;

    ForkGuard guard_;
    std::vector<Vcpu*> vcpus_;
    std::shared_ptr<const Dispatcher> dispatcher_;
    ExitFilter filter_;
    std::shared_ptr<ExitHandler> handler_;
    RunLoopOptions options_;
    FreezeCoordinator freezer_;
    TickClock clock_;  // in nanoseconds where records are made
    std::vector<VcpuCounters> counters_;
    std::unique_ptr<Ring<ExitRecord>> records_;
    mutable std::mutex mutex_;  // guards what follows; no vCPU waits for it between two exits
    std::condition_variable changed_;
    std::optional<RunEnd> end_;
    std::size_t present_ = 0;
    std::size_t begun_ = 0;
};

}  // namespace vmthaw
