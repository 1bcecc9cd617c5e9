#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "base/fork_guard.hpp"
#include "base/ring.hpp"
#include "kvm/vcpu.hpp"
#include "machine/freeze/freeze_coordinator.hpp"
#include "machine/guest_memory.hpp"
#include "machine/watchpoints/basic_watch_board.hpp"
#include "machine/watchpoints/watch_event.hpp"
#include "vcpu/exit.hpp"
#include "vcpu/vcpu_watch.hpp"

namespace vmthaw {

// Slot 0 latches when the u32 behind its gate is at least that.
inline constexpr std::uint32_t kWatchGateThreshold = 1024;

struct WatchOptions {
    std::uint32_t gate_threshold = kWatchGateThreshold;
    std::size_t event_capacity = 1024;
};

// What became of an exit: nobody's here; done, run on; or done, and the vCPU has come out again with `outcome`.
enum class WatchAnswer : std::uint8_t { not_ours, handled, again };

// Watches four slots on all vCPUs of a machine: arms their debug registers, tells what their exits meant, and applies
// the stores to pages that are read-only for it, in `memory`, whose these pages are. What a wish points to outlives it.
// Requests are anybody's; prepare() and handle() are the vCPUs' threads', and neither throw, allocate nor lock. In a
// forked child requests are ForkedError.
class Watchpoints {
public:
    explicit Watchpoints(std::size_t vcpus, WatchOptions options = {}, std::shared_ptr<GuestMemory> memory = nullptr);

    // Publishes, instead of what the slot had; its hit and its edges are gone. Takes effect before each vCPU's next
    // KVM_RUN: kick those that run. Of a read-only page no vCPU may run meanwhile, and the caller has made it so.
    // Throws ArgumentError: no such slot, an address of 0 or (of `write`) not a multiple of 4, a gate or bytes that are
    // not aligned so, no backend, a read-only page without bytes or memory, or for `execute`.
    void set(std::size_t slot, const WatchWish& wish);
    void disarm(std::size_t slot);
    bool latch(std::size_t slot);                    // as the board's; a slot that does not exist is false
    [[nodiscard]] bool hit(std::size_t slot) const;  // ArgumentError for a slot that does not exist; so the next two
    void clear_hit(std::size_t slot);
    [[nodiscard]] int hit_eventfd(std::size_t slot);
    [[nodiscard]] bool any_armed() const noexcept { return board_.any_armed(); }

    // So many more instructions of that vCPU are events each.
    void step(std::size_t vcpu, std::uint64_t instructions);
    [[nodiscard]] std::uint64_t steps_left(std::size_t vcpu) const;

    // Bitmaps of slots: asked for (of one kind), and in force on every vCPU.
    [[nodiscard]] unsigned requested(std::optional<WatchKind> kind = {}) const;
    [[nodiscard]] unsigned armed() const;
    // True when all that is asked for is in force.
    [[nodiscard]] bool wait_armed(std::uint64_t timeout_ns) const;
    // Debug exits that were nobody's here, and whether one has disarmed the vCPU until a request changes.
    [[nodiscard]] std::uint64_t foreign(std::size_t vcpu) const;
    [[nodiscard]] bool is_disarmed(std::size_t vcpu) const;

    // Throws ForkedError, and ArgumentError for a slot that does not exist.
    void check_slot(std::size_t slot) const;
    [[nodiscard]] std::size_t vcpu_count() const noexcept { return vcpus_.size(); }
    [[nodiscard]] Ring<WatchEvent>& events() noexcept { return events_; }

    // Before each KVM_RUN.
    void prepare(std::size_t index, Vcpu& vcpu) noexcept;
    // After each exit, which `outcome` gave. An exit that is handled is over; `again` replaces `outcome`.
    [[nodiscard]] WatchAnswer handle(std::size_t index, Vcpu& vcpu, const Exit& exit, RunResult& outcome) noexcept;

private:
    using Board = BasicWatchBoard<FreezePlatformBase>;

    // A vCPU's own; the atomics are what others may read.
    struct State {
        explicit State(GuestArch arch) : watch(arch) {}
        VcpuWatch watch;
        WatchRequests requests;                           // of the debug registers
        std::array<Board::Reading, kWatchSlots> known;    // all, as of `version`
        std::array<std::uint32_t, kWatchSlots> before{};  // of stores that are still to come
        unsigned latched_early = 0;                       // and which of them have set the hit
        std::uint64_t version = 0;
        bool is_active = false;
        std::atomic<std::uint64_t> steps{0};
        std::atomic<std::uint64_t> foreign{0};
        std::atomic<std::uint64_t> seen_version{0};
        std::atomic<unsigned> armed{0};
        std::atomic<bool> is_disarmed{false};
    };
    struct Store;

    [[nodiscard]] State& state_of(std::size_t vcpu) const;
    void learn(State& own) noexcept;
    [[nodiscard]] WatchAnswer on_debug(std::size_t index, Vcpu& vcpu, const DebugExit& debug) noexcept;
    [[nodiscard]] WatchAnswer on_store(std::size_t index, Vcpu& vcpu, const MmioExit& mmio,
                                       RunResult& outcome) noexcept;
    [[nodiscard]] static constexpr unsigned bit_of(std::size_t slot) noexcept { return 1U << slot; }
    [[nodiscard]] bool apply(const State& own, const MmioExit& mmio, Store& store) const noexcept;
    [[nodiscard]] bool is_gate_open(std::size_t slot, const WatchWish& wish) const noexcept;
    // Keeps the event, and latches, if the gate lets it.
    void fire(std::size_t slot, const Board::Reading& request, WatchEvent event, bool latches) noexcept;

    ForkGuard guard_;
    WatchOptions options_;
    std::shared_ptr<GuestMemory> memory_;
    std::vector<std::unique_ptr<State>> vcpus_;
    Board board_;
    Ring<WatchEvent> events_;
    // What the bytes were when they were last looked at: x86-64 fires after the store.
    std::array<std::atomic<std::uint32_t>, kWatchSlots> last_{};
    mutable std::mutex mutex_;  // guards publishing; no vCPU takes it
};

}  // namespace vmthaw
