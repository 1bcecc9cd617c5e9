#pragma once

#include <ucontext.h>

#include <algorithm>
#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

// A small model checker: runs a program of a few threads in every order of their steps and looks for a violation, a
// deadlock, or a thread that spins. The threads run real code on stacks of their own; the stand-ins for atomics and
// events (freeze_model.hpp) call step(). Shared state lives in the world's words, so that two orders that lead to the
// same state are followed once.
namespace vmthaw::model {

struct Options {
    bool store_buffers = false;   // stores of less than sequential consistency stay with their thread for a while (x86)
    bool prompt_signals = false;  // a signal comes before its thread's next step, instead of at any time later
    unsigned time_outs = 0;       // waits that may end by their time-out, in the whole execution
    std::size_t most_steps = 400;
    std::uint64_t most_states = 5'000'000;
};

struct Report {
    std::string violation;  // empty: there is none
    std::vector<std::string> trace;
    std::uint64_t states = 0;
    std::uint64_t executions = 0;
    bool is_complete = false;  // every order was followed
    [[nodiscard]] std::string text() const;
};

// Which threads have been seen to read and write each word, in all executions so far. What only one thread writes it
// reads without anybody noticing, and need not be scheduled for it. When the masks grow, the exploration begins again:
// in the end it has relied on nothing that any execution contradicted.
class Sharing {
public:
    [[nodiscard]] bool is_private_load(std::size_t word, std::size_t thread) {
        return (at(word, thread, false).writers & ~(1U << thread)) == 0;
    }
    [[nodiscard]] bool is_private_store(std::size_t word, std::size_t thread) {
        const Masks& masks = at(word, thread, true);
        return ((masks.writers | masks.readers) & ~(1U << thread)) == 0;
    }
    [[nodiscard]] bool take_grown() noexcept { return std::exchange(grown_, false); }

private:
    struct Masks {
        unsigned readers = 0, writers = 0;
    };
    const Masks& at(std::size_t word, std::size_t thread, bool writes) {
        masks_.resize(std::max(masks_.size(), word + 1));
        unsigned& mask = writes ? masks_[word].writers : masks_[word].readers;
        grown_ = grown_ || (mask & 1U << thread) == 0;
        mask |= 1U << thread;
        return masks_[word];
    }
    std::vector<Masks> masks_;
    bool grown_ = false;
};

// One execution of the program.
class World {
public:
    World(const Options& options, Sharing& sharing) : options_(options), sharing_(sharing) {}
    [[nodiscard]] static World& current() noexcept { return *g_current; }

    // Before the threads run.
    [[nodiscard]] std::size_t add_word(std::uint64_t value);
    void add_thread(std::string name, std::function<void()> body, std::function<void()> on_signal = {});

    // From a thread: waits until the scheduler picks one of `choices` that `enabled(choice)` allows, then `effect`.
    // With `takes_signals` the thread is in the kernel, and a signal comes by the step alone.
    template <typename Enabled, typename Effect>
    std::uint64_t step(const char* what, unsigned choices, const Enabled& enabled, const Effect& effect,
                       bool takes_signals = false) {
        // Outside any thread (construction, the end) nothing else runs: the effect alone.
        if (running_ == nullptr) {
            return effect(0U);
        }
        Thread& self = *running_;
        self.what = what;
        self.choices = choices;
        self.takes_signals = takes_signals;
        self.context_of_enabled = &enabled;
        self.enabled = [](const void* context, unsigned choice) {
            return (*static_cast<const Enabled*>(context))(choice);
        };
        switch_out(self);
        const std::uint64_t result = effect(self.choice);
        self.remember(result + (std::uint64_t{self.choice} << 60U));
        return result;
    }
    // A step that reads or writes one word of shared memory; none where no other thread could notice.
    template <typename Effect>
    std::uint64_t access(const char* what, std::size_t word, bool writes, const Effect& effect) {
        // (With something in its store buffer a thread's store is noticed: it empties that.)
        if (running_ != nullptr && (!writes || running_->store_buffer.empty()) &&
            (writes ? sharing_.is_private_store(word, running_index_)
                    : sharing_.is_private_load(word, running_index_))) {
            const std::uint64_t result = effect();
            running_->remember(result);
            return result;
        }
        return step(what, effect);
    }
    template <typename Effect>
    std::uint64_t step(const char* what, const Effect& effect) {
        return step(what, 1, [](unsigned) { return true; }, [&](unsigned) { return effect(); });
    }

    [[nodiscard]] std::uint64_t load(std::size_t word) const;  // as the running thread sees it
    void store_later(std::size_t word, std::uint64_t value);   // through its store buffer
    void store(std::size_t word, std::uint64_t value) { words_[word] = value; }
    void empty_store_buffer();  // the running thread's
    [[nodiscard]] std::uint64_t memory(std::size_t word) const noexcept { return words_[word]; }

    // The running thread vouches that nothing but `value` of its past matters to what it does next (the head of a
    // loop).
    void forget_all_but(std::uint64_t value) noexcept { running_->history = value; }

    // What the running thread's last step gave it.
    [[nodiscard]] std::uint64_t last_result() const noexcept { return running_->last_result; }

    void signal(std::size_t thread) { threads_[thread]->has_signal = true; }
    [[nodiscard]] bool has_signal() const noexcept { return running_ != nullptr && running_->has_signal; }
    void deliver_signal();  // to the running thread, now
    [[nodiscard]] std::size_t running_thread() const noexcept { return running_index_; }
    [[nodiscard]] bool may_time_out() const noexcept { return time_outs_ < options_.time_outs; }
    void count_time_out() noexcept { ++time_outs_; }

    void fail(const std::string& why);

private:
    friend class Explorer;
    struct Thread {
        std::string name;
        std::function<void()> body, on_signal;
        ucontext_t context{};
        jmp_buf position{};
        bool was_entered = false;
        const char* what = "start";
        unsigned choices = 1;
        bool (*enabled)(const void*, unsigned) = nullptr;
        const void* context_of_enabled = nullptr;
        bool takes_signals = false;
        unsigned choice = 0;
        std::uint64_t history = 1;
        std::uint64_t last_result = 0;
        std::vector<std::pair<std::size_t, std::uint64_t>> store_buffer;
        bool has_signal = false;
        bool finished = false;
        void remember(std::uint64_t value) noexcept;
    };
    enum class Kind : std::uint8_t { step, flush, signal };
    struct Action {
        std::size_t thread;
        Kind kind;
        unsigned choice;
    };

    void start();
    [[nodiscard]] std::vector<Action> enabled_actions();
    void perform(const Action& action);
    [[nodiscard]] std::string describe(const Action& action, const char* what) const;
    [[nodiscard]] std::uint64_t hash() const noexcept;
    [[nodiscard]] bool is_finished() const noexcept;
    void resume(std::size_t thread);
    void switch_out(Thread& self);
    static void enter();
    static void prepare(ucontext_t& context, std::byte* stack);

    static World* g_current;
    Options options_;
    Sharing& sharing_;
    std::vector<std::uint64_t> words_;
    std::vector<std::unique_ptr<Thread>> threads_;
    Thread* running_ = nullptr;
    std::size_t running_index_ = 0;
    unsigned time_outs_ = 0;
    std::string violation_;
    jmp_buf scheduler_{};
};

// The program under test: built anew for every execution, with the world at hand; its constructor adds the threads.
struct Program {
    Program() = default;
    Program(const Program&) = delete;
    Program& operator=(const Program&) = delete;
    virtual ~Program() = default;
    // After all threads have ended.
    virtual void check_end(World& /*world*/) {}
};

// Follows every order. The program must be deterministic but for what the steps give it.
[[nodiscard]] Report explore(const Options& options, const std::function<std::unique_ptr<Program>()>& make);

}  // namespace vmthaw::model
