#include "fuse/fuse_gate.hpp"

namespace vmthaw {

bool FuseGate::enter() noexcept {
    if ((state_.fetch_add(1) & kClosed) == 0) {
        return true;
    }
    leave();
    return false;
}

void FuseGate::leave() noexcept {
    if (state_.fetch_sub(1) == (kClosed | 1)) {
        // With the lock, or the waiter could look before and sleep after.
        const std::lock_guard lock(mutex_);
        changed_.notify_all();
    }
}

bool FuseGate::begin_change() noexcept {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !changing_; });
    changing_ = true;
    const bool was_open = (state_.fetch_or(kClosed) & kClosed) == 0;
    changed_.wait(lock, [this] { return state_.load() == kClosed; });
    return was_open;
}

void FuseGate::finish_change(bool open) noexcept {
    const std::lock_guard lock(mutex_);
    if (open) {
        state_.fetch_and(~kClosed);
    }
    changing_ = false;
    changed_.notify_all();
}

}  // namespace vmthaw
