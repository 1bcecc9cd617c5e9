#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "machine/watchpoints/basic_watch_board.hpp"

// A watch board with one hazard each, which the checker must see through.
namespace vmthaw::model {

enum class WatchHazard : std::uint8_t {
    latches_without_compare,  // looks whether there is a hit, then stores one
    numbers_nothing,          // all requests are the same one
    clears_before_draining,   // the hit first, then its edge
    looks_once,               // does not look whether the slot was changed while it was read
};

template <typename Platform, WatchHazard kHazard>
class NaiveWatchBoard {
public:
    struct Reading {
        std::uint64_t number = 0;
        WatchWish wish;
    };

    void publish(std::size_t slot, const WatchWish& wish) {
        disarm(slot);
        gate_.store(reinterpret_cast<std::uint64_t>(wish.gate));
        address_.store(wish.target.guest_address);
    }
    void disarm(std::size_t /*slot*/) {
        address_.store(0);
        gate_.store(0);
        if (kHazard != WatchHazard::numbers_nothing) {
            number_.store(number_.load() + 1);
        }
        hit_.store(0);
    }
    [[nodiscard]] std::optional<Reading> read(std::size_t /*slot*/) const noexcept {
        Reading reading;
        reading.number = number_.load();
        reading.wish.target.guest_address = address_.load();
        reading.wish.gate = reinterpret_cast<const std::uint32_t*>(gate_.load());
        const bool looks_again = kHazard != WatchHazard::looks_once;
        if (looks_again && (address_.load() != reading.wish.target.guest_address || number_.load() != reading.number)) {
            return std::nullopt;
        }
        return reading;
    }
    bool latch(std::size_t /*slot*/, std::uint64_t number) noexcept {
        if (number_.load() != number) {
            return false;
        }
        if (kHazard == WatchHazard::latches_without_compare) {
            if (hit_.load() != 0) {
                return false;
            }
            hit_.store(1);
        } else if (hit_.exchange(1) != 0) {
            return false;
        }
        event_.signal();
        return true;
    }
    [[nodiscard]] bool hit(std::size_t /*slot*/) const noexcept { return hit_.load() != 0; }
    void clear_hit(std::size_t /*slot*/) {
        if (hit_.load() != 0) {
            hit_.store(0);
            (void)event_.drain();
        }
    }
    [[nodiscard]] typename Platform::Event& event(std::size_t /*slot*/) { return event_; }

private:
    typename Platform::template Atomic<std::uint64_t> address_{0};
    typename Platform::template Atomic<std::uint64_t> gate_{0};
    typename Platform::template Atomic<std::uint64_t> number_{0};
    typename Platform::template Atomic<std::uint64_t> hit_{0};
    typename Platform::Event event_;
};

}  // namespace vmthaw::model
