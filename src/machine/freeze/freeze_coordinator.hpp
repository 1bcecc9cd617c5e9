#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/clock.hpp"
#include "base/event_fd.hpp"
#include "base/fork_guard.hpp"
#include "kvm/vcpu.hpp"
#include "machine/freeze/basic_freeze_coordinator.hpp"
#include "machine/freeze/thread_kick.hpp"
#include "machine/kick.hpp"
#include "vcpu/register_snapshot.hpp"

namespace vmthaw {

// Waits for any of the events that are there, at most that long; a signal ends it early.
void wait_for_events(const std::array<const EventFd*, 3>& events, std::uint64_t timeout_ns) noexcept;
void warn_of_failed_drain(std::size_t vcpu, int error) noexcept;

// What the protocol of BasicFreezeCoordinator stands on outside of tests. All atomics are sequentially consistent: the
// model checker's interleavings are then all there are.
struct FreezePlatformBase {
    using Event = EventFd;

    template <typename Value>
    class Atomic {
    public:
        explicit Atomic(Value value) noexcept : value_(value) {}
        [[nodiscard]] Value load() const noexcept { return value_.load(); }
        void store(Value value) noexcept { value_.store(value); }
        Value exchange(Value value) noexcept { return value_.exchange(value); }
        bool compare_exchange(Value& expected, Value wanted) noexcept {
            return value_.compare_exchange_strong(expected, wanted);
        }

    private:
        std::atomic<Value> value_;
    };
    // Written before the answer that tells of it, read after that.
    template <typename Value>
    class Cell {
    public:
        void write(const Value& value) noexcept { value_ = value; }
        [[nodiscard]] const Value& read() const noexcept { return value_; }

    private:
        Value value_{};
    };

    static void fence() noexcept { full_fence(); }
    static std::uint64_t now_ns() noexcept { return monotonic_ns(); }
    static void wait(const std::array<EventFd*, 3>& events, std::uint64_t timeout_ns) noexcept {
        wait_for_events({events[0], events[1], events[2]}, timeout_ns);
    }
    static void warn_of_drain(std::size_t index, int error) noexcept { warn_of_failed_drain(index, error); }
    static void full_fence() noexcept;
};

// A vCPU as the coordinator sees it: the parts of Vcpu that the protocol needs, and the thread that runs it.
class FreezableVcpu {
public:
    explicit FreezableVcpu(Vcpu& vcpu) : vcpu_(vcpu) {}

    [[nodiscard]] bool immediate_exit() const noexcept { return vcpu_.immediate_exit(); }
    void set_immediate_exit(bool value) noexcept { vcpu_.set_immediate_exit(value); }
    [[nodiscard]] int drain() noexcept { return vcpu_.drain(); }
    [[nodiscard]] std::optional<RegisterSnapshot> capture() noexcept;
    [[nodiscard]] ThreadKick& thread() noexcept { return thread_; }
    void bind() {
        scope_.emplace(vcpu_);
        thread_.bind();
    }
    void unbind() noexcept {
        thread_.unbind();
        scope_.reset();
    }

private:
    Vcpu& vcpu_;
    ThreadKick thread_;
    std::optional<KickScope> scope_;  // of the attached thread, made and destroyed there
};

struct FreezePlatform : FreezePlatformBase {
    using Vcpu = FreezableVcpu;
    using Snapshot = RegisterSnapshot;
    static void bind(Vcpu& vcpu) { vcpu.bind(); }
    static void unbind(Vcpu& vcpu) noexcept { vcpu.unbind(); }
    static void kick(Vcpu& vcpu) noexcept { vcpu.thread().kick(); }
};

// Freezes the vCPUs of a machine; the protocol is BasicFreezeCoordinator's. The vCPUs outlive it. In a forked child
// everything but destruction is ForkedError.
class FreezeCoordinator {
public:
    using Protocol = BasicFreezeCoordinator<FreezePlatform>;
    using Outcome = FreezeOutcome<RegisterSnapshot>;

    explicit FreezeCoordinator(const std::vector<Vcpu*>& vcpus, FreezeEvents events = {});

    [[nodiscard]] std::size_t vcpu_count() const noexcept { return protocol_->vcpu_count(); }
    // The eventfd that has one edge for each park; -1 without one. freeze() drains it.
    [[nodiscard]] int parked_fd() noexcept;
    [[nodiscard]] bool is_killed() const noexcept { return protocol_->is_killed(); }
    [[nodiscard]] bool is_frozen() const noexcept { return protocol_->is_frozen(); }
    [[nodiscard]] bool is_parked(std::size_t index) const;

    // A vCPU's thread: attach while it lives, and head() before each KVM_RUN.
    class Attachment {
    public:
        Attachment(FreezeCoordinator& coordinator, std::size_t index);  // throws StateError, ArgumentError
        ~Attachment();
        Attachment(const Attachment&) = delete;
        Attachment& operator=(const Attachment&) = delete;
        // As BasicFreezeCoordinator's.
        [[nodiscard]] LoopHead head(std::uint64_t patience_ns = Protocol::kForever_ns) noexcept {
            return coordinator_.protocol_->head(index_, patience_ns);
        }
        [[nodiscard]] std::uint64_t request() const noexcept { return coordinator_.protocol_->request(); }

    private:
        FreezeCoordinator& coordinator_;
        std::size_t index_;
    };

    void begin_freeze();
    [[nodiscard]] bool wait_parked(std::uint64_t timeout_ns) noexcept { return protocol_->wait_parked(timeout_ns); }
    void finish_freeze(Outcome& outcome) { protocol_->finish_freeze(outcome); }
    [[nodiscard]] Outcome freeze(std::uint64_t timeout_ns);
    void thaw();
    void nudge();
    void kill();

private:
    void check_index(std::size_t index) const;

    ForkGuard guard_;
    std::vector<std::unique_ptr<FreezableVcpu>> vcpus_;
    std::unique_ptr<Protocol> protocol_;
};

}  // namespace vmthaw
