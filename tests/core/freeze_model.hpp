#pragma once

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <type_traits>

#include "model_checker.hpp"

// Stand-ins for what FreezeCoordinator stands on: each operation is one step of the model checker.
namespace vmthaw::model {

inline World& world() noexcept { return World::current(); }

// As x86-64 has it: a store empties the store buffer, a load looks into its own.
template <typename Value>
class Atomic {
public:
    explicit Atomic(Value value) : word_(world().add_word(static_cast<std::uint64_t>(value))) {}
    [[nodiscard]] Value load() const noexcept {
        return static_cast<Value>(world().access("load", word_, false, [this] { return world().load(word_); }));
    }
    void store(Value value) noexcept { (void)exchange(value); }
    Value exchange(Value value) noexcept {
        return static_cast<Value>(world().access("store", word_, true, [&] {
            world().empty_store_buffer();
            const std::uint64_t before = world().memory(word_);
            world().store(word_, static_cast<std::uint64_t>(value));
            return before;
        }));
    }
    bool compare_exchange(Value& expected, Value wanted) noexcept {
        const auto found = static_cast<Value>(world().access("compare and exchange", word_, true, [&] {
            world().empty_store_buffer();
            const std::uint64_t before = world().memory(word_);
            if (before == static_cast<std::uint64_t>(expected)) {
                world().store(word_, static_cast<std::uint64_t>(wanted));
            }
            return before;
        }));
        const bool same = found == expected;
        expected = found;
        return same;
    }

private:
    std::size_t word_;
};

// Not atomic: begins and ends in two steps, and two at once are a violation.
template <typename Value>
class Cell;
template <>
class Cell<std::optional<std::uint64_t>> {
public:
    using Value = std::optional<std::uint64_t>;
    void write(const Value& value) noexcept {
        access("write the snapshot");
        world().step("written", [&] {
            world().store(in_use_, 0);
            world().store(value_, value ? *value + 1 : 0);
            return 0U;
        });
    }
    [[nodiscard]] Value read() const noexcept {
        access("read the snapshot");
        const std::uint64_t found = world().step("read", [&] {
            world().store(in_use_, 0);
            return world().memory(value_);
        });
        return found == 0 ? Value() : Value(found - 1);
    }

private:
    void access(const char* what) const {
        world().step(what, [&] {
            if (world().memory(in_use_) != 0) {
                world().fail("a snapshot is written and read at once");
            }
            world().store(in_use_, 1);
            return 0U;
        });
    }
    std::size_t value_ = world().add_word(0);
    std::size_t in_use_ = world().add_word(0);
};

template <bool kDrains = true>
class Event {
public:
    void signal() const noexcept {
        world().step("signal", [this] {
            world().empty_store_buffer();
            world().store(edges_, 1);
            if (counter_ != nullptr) {
                world().store(*counter_, world().memory(*counter_) + 1);
            }
            return 0U;
        });
    }
    std::uint64_t drain() const noexcept {
        return world().step("drain the event", [this] {
            const std::uint64_t found = world().memory(edges_);
            if (kDrains) {
                world().store(edges_, 0);
            }
            return found;
        });
    }
    [[nodiscard]] bool is_readable() const noexcept { return world().memory(edges_) != 0; }
    // Every edge is added to that word.
    void count_edges_in(const std::size_t& word) noexcept { counter_ = &word; }

private:
    std::size_t edges_ = world().add_word(0);
    const std::size_t* counter_ = nullptr;
};

// What the threads of one program share beside the coordinator.
struct Ground {
    std::size_t frozen = world().add_word(0);  // freeze() said so, and thaw() was not called yet
    std::size_t wanted = world().add_word(0);  // somebody wants the vCPUs to stop
    std::size_t now_ns = world().add_word(0);
    std::size_t edges_less_parks = world().add_word(0);
    bool late_kicks_are_wrong = false;
    std::uint64_t cycle = 0;  // the coordinator's
};

class Vcpu {
public:
    Vcpu(Ground& ground, std::size_t thread, unsigned exits)
        : ground_(ground), thread_(thread), exits_left_(world().add_word(exits)) {}

    [[nodiscard]] bool immediate_exit() const noexcept {
        world().store(is_parked_, 0);
        return world().step("load immediate_exit", [this] { return world().load(immediate_exit_); }) != 0;
    }
    void set_immediate_exit(bool value) noexcept {
        world().step(value ? "immediate_exit = 1" : "immediate_exit = 0", [&] {
            world().store_later(immediate_exit_, value ? 1U : 0U);
            return 0U;
        });
    }
    // The beginning of a park: all that its thread knows by then is the request, which it loaded last.
    int drain() noexcept {
        request_ = world().last_result();
        world().forget_all_but(request_);
        world().step("drain", [this] {
            world().empty_store_buffer();
            advance(world().memory(unfinished_));
            world().store(unfinished_, 0);
            world().store_later(immediate_exit_, 0);
            return 0U;
        });
        return 0;
    }
    [[nodiscard]] std::optional<std::uint64_t> capture() noexcept {
        // No step: nobody else looks at these.
        if (world().memory(unfinished_) != 0) {
            world().fail("captured before the drain");
        }
        world().store(ground_.edges_less_parks, world().memory(ground_.edges_less_parks) - 1);
        world().store(wakes_, 0);
        world().store(is_parked_, 1);
        return world().memory(registers_);
    }
    // Runs the guest until a kick, or an exit of its own while it has any left: EINTR or 0.
    int run() noexcept {
        const bool entered = world().step("KVM_RUN", [this] {
            world().empty_store_buffer();
            if (world().has_signal()) {
                world().deliver_signal();
                return 0U;
            }
            if (world().memory(immediate_exit_) != 0) {
                if (ground_.late_kicks_are_wrong && world().memory(ground_.wanted) == 0) {
                    world().fail("a late kick cancels the next run");
                }
                return 0U;
            }
            advance(1);
            world().store(unfinished_, 0);
            world().store(in_guest_, 1);
            if (world().memory(ground_.frozen) != 0) {
                world().fail("a vCPU enters the guest while it is frozen");
            }
            return 1U;
        }) != 0;
        if (!entered) {
            return EINTR;
        }
        const auto enabled = [this](unsigned choice) {
            return choice == 0 ? world().has_signal() : world().memory(exits_left_) != 0;
        };
        const auto leave = [this](unsigned choice) -> std::uint64_t {
            world().store(in_guest_, 0);
            if (choice == 0) {
                world().deliver_signal();
                return EINTR;
            }
            world().store(exits_left_, world().memory(exits_left_) - 1);
            world().store(unfinished_, 1);  // an IN: its instruction is completed by the next KVM_RUN
            return 0;
        };
        return static_cast<int>(world().step("in the guest", 2, enabled, leave, true));
    }
    [[nodiscard]] std::uint64_t registers() const noexcept { return world().memory(registers_); }
    [[nodiscard]] bool is_in_guest() const noexcept { return world().memory(in_guest_) != 0; }
    [[nodiscard]] bool is_parked() const noexcept { return world().memory(is_parked_) != 0; }
    [[nodiscard]] std::size_t thread() const noexcept { return thread_; }
    // The head of a parked vCPU's loop.
    void forget_earlier_wakes() noexcept { world().forget_all_but(request_ + kParked); }
    void count_wake() noexcept {
        world().store(wakes_, world().memory(wakes_) + 1);
        if (world().memory(wakes_) > kMostWakes) {
            world().fail("a parked vCPU spins");
        }
    }

private:
    // Few values, so that states meet again.
    void advance(std::uint64_t by) noexcept { world().store(registers_, (world().memory(registers_) + by) % 5); }

    // An edge left over from the last thaw, a late signal, the thaw itself, a kill.
    static constexpr std::uint64_t kMostWakes = 4;
    static constexpr std::uint64_t kParked = 1U << 20U;
    Ground& ground_;
    std::uint64_t request_ = 0;
    std::size_t thread_;
    std::size_t exits_left_;
    std::size_t immediate_exit_ = world().add_word(0);
    std::size_t registers_ = world().add_word(0);
    std::size_t unfinished_ = world().add_word(0);
    std::size_t in_guest_ = world().add_word(0);
    std::size_t wakes_ = world().add_word(0);
    std::size_t is_parked_ = world().add_word(0);
};

// The threads of the vCPUs come first in the world.
struct ThreadMap {
    std::array<Vcpu*, 4> vcpus{};
    Ground* ground = nullptr;
    static ThreadMap& current() noexcept {
        static ThreadMap map;
        return map;
    }
};

// `kFences` and `kDrains` false are mutants, which the checker must see through.
template <bool kFences = true, bool kDrains = true>
struct Platform {
    using Vcpu = model::Vcpu;
    using Snapshot = std::uint64_t;
    using Event = model::Event<kDrains>;
    template <typename Value>
    using Atomic = model::Atomic<Value>;
    template <typename Value>
    using Cell = model::Cell<Value>;

    static void fence() noexcept {
        if (kFences) {
            world().step("fence", [] {
                world().empty_store_buffer();
                return 0U;
            });
        }
    }
    static void bind(Vcpu& /*vcpu*/) noexcept {}
    static void unbind(Vcpu& /*vcpu*/) noexcept {}
    static void kick(Vcpu& vcpu) noexcept {
        world().step("kick", [&] {
            world().empty_store_buffer();
            world().signal(vcpu.thread());
            return 0U;
        });
    }
    static constexpr std::uint64_t kWaiting = 1U << 20U;
    static std::uint64_t now_ns() noexcept { return world().memory(ThreadMap::current().ground->now_ns); }
    static void warn_of_drain(std::size_t /*index*/, int /*error*/) noexcept {}

    // A vCPU's wait never times out here, unless it asked for a single nanosecond: what needs its second look has lost
    // an edge.
    static void wait(const std::array<Event*, 3>& events, std::uint64_t timeout_ns) noexcept {
        const auto enabled = [&](unsigned choice) {
            if (choice == 1 && timeout_ns == 1) {
                return true;
            }
            if (choice == 1) {
                return ThreadMap::current().vcpus.at(world().running_thread()) == nullptr && world().may_time_out();
            }
            for (const Event* const event : events) {
                if (event != nullptr && event->is_readable()) {
                    return true;
                }
            }
            return world().has_signal();
        };
        if (Vcpu* const vcpu = ThreadMap::current().vcpus.at(world().running_thread()); vcpu != nullptr) {
            vcpu->forget_earlier_wakes();
        } else {
            world().forget_all_but(kWaiting + ThreadMap::current().ground->cycle);
        }
        world().step("wait", 2, enabled, [](unsigned choice) {
            world().empty_store_buffer();
            Vcpu* const vcpu = ThreadMap::current().vcpus.at(world().running_thread());
            if (choice == 1 && vcpu != nullptr) {
                return 0U;
            }
            if (choice == 1) {
                world().count_time_out();
                world().store(ThreadMap::current().ground->now_ns, ~std::uint64_t{0});
            } else if (world().has_signal()) {
                world().deliver_signal();
            }
            if (vcpu != nullptr) {
                vcpu->count_wake();
            }
            return 0U;
        });
    }
};

}  // namespace vmthaw::model
