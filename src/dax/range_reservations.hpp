#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "dax/window_map.hpp"

namespace vmthaw {

// Ranges of a window that requests work on while nobody holds the lock. All calls are made with the lock held.
class RangeReservations {
public:
    // Waits until nobody has any of the range: 0, or EBUSY at once when this thread has a reservation itself (a mapper
    // that calls back: two that waited for each other would never end), EAGAIN after 10 s, ENOMEM.
    [[nodiscard]] int reserve(std::unique_lock<std::mutex>& lock, const WindowRange& range) noexcept;
    // Only if it need not wait, in what this thread has not reserved itself.
    [[nodiscard]] bool try_reserve(const WindowRange& range) noexcept;
    void release(const WindowRange& range) noexcept;

private:
    struct Reservation {
        WindowRange range;
        std::thread::id owner;
    };
    [[nodiscard]] bool is_free(const WindowRange& range) const noexcept;
    [[nodiscard]] bool is_owner() const noexcept;
    [[nodiscard]] bool add(const WindowRange& range) noexcept;

    std::vector<Reservation> reservations_;
    std::condition_variable released_;
};

}  // namespace vmthaw
