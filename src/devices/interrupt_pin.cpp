#include "devices/interrupt_pin.hpp"

#include <unistd.h>

#include <cerrno>

namespace vmthaw {

DeviceOutcome EventInterrupt::set_level(bool level) noexcept {
    constexpr std::uint64_t kOne = 1;
    // EAGAIN: the counter is full, so whoever waits is woken all the same.
    while (level && ::write(fd_.get(), &kOne, sizeof kOne) < 0 && errno == EINTR) {
    }
    return DeviceOutcome::done;
}

void InterruptPin::set(bool level) noexcept {
    if (!line_) {
        return;
    }
    const std::lock_guard lock(mutex_);
    if (level == level_) {
        return;
    }
    level_ = level;
    ++pending_;
    // Pulses that nobody was told of yet are one: the last level and at least one rise are kept.
    if (pending_ > 3) {
        pending_ -= 2;
    }
}

[[gnu::hot]] DeviceOutcome InterruptPin::deliver() noexcept {
    if (!line_) {
        return DeviceOutcome::done;
    }
    std::unique_lock lock(mutex_);
    if (delivering_) {
        return DeviceOutcome::done;
    }
    delivering_ = true;
    auto outcome = DeviceOutcome::done;
    while (pending_ > 0) {
        --pending_;
        told_ = !told_;
        const bool level = told_;
        lock.unlock();
        if (line_->set_level(level) == DeviceOutcome::failed) {
            outcome = DeviceOutcome::failed;
        }
        lock.lock();
    }
    delivering_ = false;
    return outcome;
}

}  // namespace vmthaw
