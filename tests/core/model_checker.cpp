#include "model_checker.hpp"

#include <stdexcept>

namespace vmthaw::model {
namespace {

constexpr std::size_t kStackBytes = std::size_t{128} << 10U;
constexpr std::size_t kMostThreads = 6;

// Stacks outlive executions: one that is abandoned half-way is overwritten by the next.
std::byte* stack_of(std::size_t thread) {
    static const std::unique_ptr<std::byte[]> stacks(new std::byte[kStackBytes * kMostThreads]);
    return stacks.get() + thread * kStackBytes;
}

std::uint64_t mix(std::uint64_t value) noexcept {
    value += 0x9E3779B97F4A7C15ULL;
    value = (value ^ (value >> 30U)) * 0xBF58476D1CE4E5B9ULL;
    value = (value ^ (value >> 27U)) * 0x94D049BB133111EBULL;
    return value ^ (value >> 31U);
}

}  // namespace

World* World::g_current = nullptr;

std::string Report::text() const {
    std::string all = violation.empty() ? "no violation" : violation;
    all += " (" + std::to_string(states) + " states, " + std::to_string(executions) + " executions)\n";
    for (const std::string& line : trace) {
        all += "  " + line + "\n";
    }
    return all;
}

void World::Thread::remember(std::uint64_t value) noexcept {
    history = mix(history ^ mix(value));
    last_result = value;
}

std::size_t World::add_word(std::uint64_t value) {
    words_.push_back(value);
    return words_.size() - 1;
}

void World::add_thread(std::string name, std::function<void()> body, std::function<void()> on_signal) {
    if (threads_.size() == kMostThreads) {
        throw std::logic_error("too many threads for the model");
    }
    auto thread = std::make_unique<Thread>();
    thread->name = std::move(name);
    thread->body = std::move(body);
    thread->on_signal = std::move(on_signal);
    threads_.push_back(std::move(thread));
}

void World::enter() {
    World& world = *g_current;
    Thread& self = *world.running_;
    self.body();
    self.finished = true;
    world.switch_out(self);
}

void World::prepare(ucontext_t& context, std::byte* stack) {
    ::getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = kStackBytes;
    context.uc_link = nullptr;
    ::makecontext(&context, &World::enter, 0);
}

void World::start() {
    for (std::size_t i = 0; i < threads_.size(); ++i) {
        prepare(threads_[i]->context, stack_of(i));
        resume(i);  // to its first step
    }
}

void World::resume(std::size_t thread) {
    running_ = threads_[thread].get();
    running_index_ = thread;
    // A thread is entered once by its context, and then by _longjmp, which makes no system call.
    if (_setjmp(scheduler_) == 0) {
        if (running_->was_entered) {
            _longjmp(running_->position, 1);
        }
        running_->was_entered = true;
        ::setcontext(&running_->context);
    }
    running_ = nullptr;
}

void World::switch_out(Thread& self) {
    if (_setjmp(self.position) == 0) {
        _longjmp(scheduler_, 1);
    }
}

std::uint64_t World::load(std::size_t word) const {
    if (running_ != nullptr) {
        for (auto entry = running_->store_buffer.rbegin(); entry != running_->store_buffer.rend(); ++entry) {
            if (entry->first == word) {
                return entry->second;
            }
        }
    }
    return words_[word];
}

void World::store_later(std::size_t word, std::uint64_t value) {
    if (options_.store_buffers && running_ != nullptr) {
        running_->store_buffer.emplace_back(word, value);
    } else {
        store(word, value);
    }
}

void World::empty_store_buffer() {
    if (running_ == nullptr) {
        return;
    }
    for (const auto& [word, value] : running_->store_buffer) {
        store(word, value);
    }
    running_->store_buffer.clear();
}

void World::deliver_signal() {
    empty_store_buffer();
    running_->has_signal = false;
    if (running_->on_signal) {
        running_->on_signal();
    }
}

void World::fail(const std::string& why) {
    if (violation_.empty()) {
        violation_ = why;
    }
}

std::vector<World::Action> World::enabled_actions() {
    std::vector<Action> actions;
    for (std::size_t i = 0; i < threads_.size(); ++i) {
        Thread& thread = *threads_[i];
        if (!thread.store_buffer.empty()) {
            actions.push_back({i, Kind::flush, 0});
        }
        if (thread.finished) {
            continue;
        }
        if (thread.has_signal && !thread.takes_signals) {
            actions.push_back({i, Kind::signal, 0});
            if (options_.prompt_signals) {
                continue;
            }
        }
        running_ = &thread;  // `enabled` may ask who asks
        running_index_ = i;
        for (unsigned choice = 0; choice < thread.choices; ++choice) {
            if (thread.enabled(thread.context_of_enabled, choice)) {
                actions.push_back({i, Kind::step, choice});
            }
        }
        running_ = nullptr;
    }
    return actions;
}

void World::perform(const Action& action) {
    Thread& thread = *threads_[action.thread];
    if (action.kind == Kind::flush) {
        const auto [word, value] = thread.store_buffer.front();
        thread.store_buffer.erase(thread.store_buffer.begin());
        store(word, value);
        return;
    }
    if (action.kind == Kind::signal) {
        running_ = &thread;
        deliver_signal();
        running_ = nullptr;
        return;
    }
    thread.choice = action.choice;
    resume(action.thread);
}

std::string World::describe(const Action& action, const char* what) const {
    const Thread& thread = *threads_[action.thread];
    if (action.kind != Kind::step) {
        return thread.name + (action.kind == Kind::flush ? ": a store becomes visible" : ": the signal comes");
    }
    return thread.name + ": " + what + (action.choice != 0 ? " #" + std::to_string(action.choice) : "");
}

std::uint64_t World::hash() const noexcept {
    std::uint64_t all = time_outs_;
    for (const std::uint64_t word : words_) {
        all = mix(all ^ mix(word));
    }
    for (const auto& thread : threads_) {
        all = mix(all ^ thread->history);
        all = mix(all + (thread->has_signal ? 2U : 0U) + (thread->finished ? 1U : 0U));
        for (const auto& [word, value] : thread->store_buffer) {
            all = mix(mix(all ^ word) ^ value);
        }
    }
    return all;
}

bool World::is_finished() const noexcept {
    for (const auto& thread : threads_) {
        if (!thread->finished || !thread->store_buffer.empty()) {
            return false;
        }
    }
    return true;
}

// Depth first; an execution is replayed from the start up to where it takes another turn.
class Explorer {
public:
    Explorer(const Options& options, const std::function<std::unique_ptr<Program>()>& make)
        : options_(options), make_(make) {}

    Report run() {
        do {
            execute();
            ++report_.executions;
            while (sharing_.take_grown() && report_.violation.empty()) {
                stack_.clear();
                states_.clear();
                execute();
            }
        } while (report_.violation.empty() && states_.size() < options_.most_states && advance());
        report_.is_complete = report_.violation.empty() && stack_.empty();
        report_.states = states_.size();
        return report_;
    }

private:
    struct Node {
        std::vector<World::Action> actions;
        std::size_t next = 0;
    };

    void execute() {
        World world(options_, sharing_);
        World::g_current = &world;
        const std::unique_ptr<Program> program = make_();
        world.start();
        trace_.clear();
        for (std::size_t depth = 0; world.violation_.empty(); ++depth) {
            if (world.is_finished()) {
                program->check_end(world);
                break;
            }
            if (depth == stack_.size()) {
                if (!states_.insert(world.hash()).second) {
                    break;  // been here
                }
                stack_.push_back({world.enabled_actions(), 0});
            }
            const Node& node = stack_[depth];
            if (node.actions.empty()) {
                world.fail("deadlock: " + waiting(world));
                break;
            }
            if (depth >= options_.most_steps) {
                world.fail("no end after " + std::to_string(depth) + " steps");
                break;
            }
            const World::Action& action = node.actions[node.next];
            trace_.emplace_back(action, world.threads_[action.thread]->what);
            world.perform(action);
        }
        if (!world.violation_.empty()) {
            report_.violation = world.violation_;
            for (const auto& [action, what] : trace_) {
                report_.trace.push_back(world.describe(action, what));
            }
        }
    }

    static std::string waiting(const World& world) {
        std::string all;
        for (const auto& thread : world.threads_) {
            if (!thread->finished) {
                all += (all.empty() ? "" : ", ") + thread->name + " in " + thread->what;
            }
        }
        return all;
    }

    bool advance() {
        while (!stack_.empty() && ++stack_.back().next >= stack_.back().actions.size()) {
            stack_.pop_back();
        }
        return !stack_.empty();
    }

    Options options_;
    const std::function<std::unique_ptr<Program>()>& make_;
    Sharing sharing_;
    std::vector<Node> stack_;
    std::unordered_set<std::uint64_t> states_;
    std::vector<std::pair<World::Action, const char*>> trace_;
    Report report_;
};

Report explore(const Options& options, const std::function<std::unique_ptr<Program>()>& make) {
    return Explorer(options, make).run();
}

}  // namespace vmthaw::model
