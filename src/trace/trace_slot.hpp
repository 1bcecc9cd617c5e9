#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>

#include "trace/trace_ring.hpp"

namespace vmthaw {

// The place of a session's trace ring: empty until somebody wants records, so that a VM that nobody looks at pays one
// load per fault and no memory. active() is for the fault path; the rest takes a lock and is for everybody else.
class TraceSlot {
public:
    explicit TraceSlot(std::size_t capacity) {
        if (capacity > 0) {
            enable(capacity);
        }
    }

    // Where to record; null while tracing is off.
    [[nodiscard]] TraceRing* active() const noexcept { return active_.load(std::memory_order_acquire); }

    // Makes the ring at the first call; later ones keep it, whatever its capacity. Throws std::bad_alloc.
    void enable(std::size_t capacity) {
        const std::lock_guard lock(mutex_);
        if (!ring_) {
            ring_ = std::make_unique<TraceRing>(capacity);
        }
        active_.store(ring_.get(), std::memory_order_release);
    }

    // Nothing is recorded from here on, but by a fault that is under way. The ring stays, for what lies in it.
    void disable() noexcept { active_.store(nullptr, std::memory_order_release); }

    // Where to take records from, tracing or not; null when it was never on.
    [[nodiscard]] TraceRing* ring() const {
        const std::lock_guard lock(mutex_);
        return ring_.get();
    }

private:
    std::atomic<TraceRing*> active_{nullptr};
    mutable std::mutex mutex_;
    std::unique_ptr<TraceRing> ring_;
};

}  // namespace vmthaw
