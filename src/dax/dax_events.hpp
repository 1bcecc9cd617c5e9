#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include "base/fork_guard.hpp"
#include "base/ring.hpp"
#include "trace/dax_record.hpp"

namespace vmthaw {

// Carries a session's events to whoever records them: nothing until somebody wants them, then a bounded ring that drops
// and counts when it is full. record() never waits. Outlives its session where somebody still takes. Any thread; what
// takes the lock throws ForkedError in a forked child.
class DaxEvents {
public:
    // The first call decides how many. Throws std::bad_alloc.
    void enable(std::size_t capacity) {
        check_process();
        const std::lock_guard lock(mutex_);
        if (!ring_) {
            ring_ = std::make_unique<Ring<DaxRecord>>(capacity);
        }
        active_.store(ring_.get(), std::memory_order_release);
    }
    void disable() noexcept { active_.store(nullptr, std::memory_order_release); }
    [[nodiscard]] bool is_on() const noexcept { return active_.load(std::memory_order_acquire) != nullptr; }

    void record(const DaxRecord& event) noexcept {
        if (auto* const ring = active_.load(std::memory_order_acquire)) {
            ring->push(event);
        }
    }

    // At most `limit` of them, oldest first.
    [[nodiscard]] std::vector<DaxRecord> take(std::size_t limit) {
        check_process();
        const std::lock_guard lock(mutex_);
        std::vector<DaxRecord> taken;
        DaxRecord event;
        while (ring_ && taken.size() < limit && ring_->pop(event)) {
            taken.push_back(event);
        }
        return taken;
    }
    [[nodiscard]] std::uint64_t dropped() const {
        check_process();
        const std::lock_guard lock(mutex_);
        return ring_ ? ring_->dropped() : 0;
    }

    // The session is gone: nothing is recorded any more.
    void end() noexcept { ended_.store(true, std::memory_order_release); }
    [[nodiscard]] bool ended() const noexcept { return ended_.load(std::memory_order_acquire); }

private:
    void check_process() const { guard_.check("this DaxSession"); }

    ForkGuard guard_;
    std::atomic<bool> ended_{false};
    std::atomic<Ring<DaxRecord>*> active_{nullptr};
    mutable std::mutex mutex_;
    std::unique_ptr<Ring<DaxRecord>> ring_;
};

}  // namespace vmthaw
