#include "dax/range_reservations.hpp"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <new>

namespace vmthaw {
namespace {

constexpr std::chrono::seconds kLongestWait{10};

}  // namespace

bool RangeReservations::is_free(const WindowRange& range) const noexcept {
    return std::ranges::none_of(reservations_, [&](const Reservation& other) { return other.range.overlaps(range); });
}

bool RangeReservations::is_owner() const noexcept {
    return std::ranges::any_of(reservations_,
                               [](const Reservation& one) { return one.owner == std::this_thread::get_id(); });
}

bool RangeReservations::add(const WindowRange& range) noexcept {
    try {
        reservations_.push_back({range, std::this_thread::get_id()});
        return true;
    } catch (const std::bad_alloc&) {
        return false;
    }
}

int RangeReservations::reserve(std::unique_lock<std::mutex>& lock, const WindowRange& range) noexcept {
    if (!is_free(range)) {
        if (is_owner()) {
            return EBUSY;
        }
        if (!released_.wait_for(lock, kLongestWait, [&] { return is_free(range); })) {
            return EAGAIN;
        }
    }
    return add(range) ? 0 : ENOMEM;
}

bool RangeReservations::try_reserve(const WindowRange& range) noexcept { return is_free(range) && add(range); }

void RangeReservations::release(const WindowRange& range) noexcept {
    const auto found = std::ranges::find_if(reservations_, [&](const Reservation& one) {
        return one.range.start == range.start && one.range.length == range.length;
    });
    if (found != reservations_.end()) {
        reservations_.erase(found);
    }
    released_.notify_all();
}

}  // namespace vmthaw
