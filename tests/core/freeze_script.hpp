#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

// What the freeze protocol stands on, on one thread and by a script: everything that it does is written down.
namespace vmthaw::script {

// What happened, and what happens elsewhere while somebody waits or drains.
struct Scene {
    std::vector<std::string> log;
    std::vector<std::uint64_t> waits_ns;
    std::vector<std::pair<std::size_t, int>> warnings;
    std::function<void()> on_wait, on_drain;
    std::uint64_t now_ns = 0;
    bool refuses_threads = false;

    static Scene& current() {
        static Scene scene;
        return scene;
    }
    std::vector<std::string> take_log() { return std::exchange(log, {}); }
};
inline Scene& scene() { return Scene::current(); }

class ScriptedVcpu {
public:
    explicit ScriptedVcpu(std::size_t index) : index_(index) {}
    [[nodiscard]] bool immediate_exit() const noexcept { return immediate_exit_; }
    void set_immediate_exit(bool value) noexcept {
        immediate_exit_ = value;
        note(value ? "immediate_exit of " : "no immediate_exit of ");
    }
    [[nodiscard]] int drain() noexcept {
        note("drain ");
        if (const auto script = std::exchange(scene().on_drain, nullptr)) {
            script();
        }
        return drain_error;
    }
    [[nodiscard]] std::optional<std::uint64_t> capture() noexcept {
        note("capture ");
        return registers;
    }
    void note(const char* what) const { scene().log.push_back(what + std::to_string(index_)); }
    [[nodiscard]] std::size_t index() const noexcept { return index_; }

    int drain_error = 0;
    std::optional<std::uint64_t> registers = 77;

private:
    std::size_t index_;
    bool immediate_exit_ = false;
};

class ScriptedEvent {
public:
    void signal() noexcept {
        ++edges_;
        scene().log.emplace_back("edge");
    }
    std::uint64_t drain() const noexcept { return 0; }
    [[nodiscard]] int edges() const noexcept { return edges_; }

private:
    int edges_ = 0;
};

struct ScriptedPlatform {
    using Vcpu = ScriptedVcpu;
    using Snapshot = std::uint64_t;
    using Event = ScriptedEvent;
    template <typename Value>
    class Atomic {
    public:
        explicit Atomic(Value value) : value_(value) {}
        [[nodiscard]] Value load() const noexcept { return value_; }
        void store(Value value) noexcept {
            value_ = value;
            if constexpr (std::is_same_v<Value, std::uint64_t>) {
                scene().log.push_back("number " + std::to_string(value));  // a request or an answer
            }
        }
        Value exchange(Value value) noexcept { return std::exchange(value_, value); }
        bool compare_exchange(Value& expected, Value wanted) noexcept {
            if (value_ != expected) {
                expected = value_;
                return false;
            }
            value_ = wanted;
            return true;
        }

    private:
        Value value_;
    };
    template <typename Value>
    class Cell {
    public:
        void write(const Value& value) noexcept { value_ = value; }
        [[nodiscard]] const Value& read() const noexcept { return value_; }

    private:
        Value value_{};
    };
    static void fence() noexcept { scene().log.emplace_back("fence"); }
    static std::uint64_t now_ns() noexcept { return scene().now_ns; }
    static void warn_of_drain(std::size_t index, int error) noexcept { scene().warnings.emplace_back(index, error); }
    static void bind(Vcpu& /*vcpu*/) {
        if (scene().refuses_threads) {
            throw std::runtime_error("no");
        }
    }
    static void unbind(Vcpu& /*vcpu*/) noexcept {}
    static void kick(Vcpu& vcpu) noexcept { vcpu.note("kick "); }
    static void wait(const std::array<Event*, 3>& /*events*/, std::uint64_t timeout_ns) noexcept {
        scene().waits_ns.push_back(timeout_ns);
        scene().now_ns += timeout_ns;
        if (scene().waits_ns.size() > 100) {
            std::abort();  // nobody would ever end it
        }
        if (scene().on_wait) {
            scene().on_wait();
        }
    }
};

}  // namespace vmthaw::script
