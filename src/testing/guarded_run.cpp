#include "testing/guarded_run.hpp"

#include "base/thread.hpp"

namespace vmthaw::testing {

GuardedRun::GuardedRun(const std::string& name, std::vector<std::function<void()>> bodies,
                       const std::vector<int>& cpus) {
    for (std::size_t i = 0; i < bodies.size(); ++i) {
        const std::lock_guard lock(state_->mutex);
        start_thread(
            name, [state = state_, body = std::move(bodies[i])] { run(state, body); }, i < cpus.size() ? cpus[i] : -1)
            .detach();
        ++state_->running;
    }
    const std::lock_guard lock(state_->mutex);
    state_->go = true;  // all at once, so that starting a thread is not part of what they measure
    state_->changed.notify_all();
}

void GuardedRun::run(const std::shared_ptr<State>& state, const std::function<void()>& body) noexcept {
    try {
        {
            std::unique_lock lock(state->mutex);
            state->changed.wait(lock, [&] { return state->go; });
        }
        body();
    } catch (...) {
        const std::lock_guard lock(state->mutex);
        state->error = std::current_exception();
    }
    const std::lock_guard lock(state->mutex);
    --state->running;
    state->changed.notify_all();
}

bool GuardedRun::wait_for(std::uint64_t timeout_ns) const {
    std::unique_lock lock(state_->mutex);
    const bool ended =
        state_->changed.wait_for(lock, std::chrono::nanoseconds(timeout_ns), [&] { return state_->running == 0; });
    if (state_->error) {
        std::rethrow_exception(state_->error);
    }
    return ended;
}

}  // namespace vmthaw::testing
