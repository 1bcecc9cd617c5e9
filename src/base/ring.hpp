#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>

namespace vmthaw {

// A bounded ring of fixed-size records: any number of producers and consumers, no locks, no allocation after
// construction. push() never waits: when the ring is full the record is dropped and counted.
// The algorithm is D. Vyukov's bounded MPMC queue (a sequence number per cell).
template <typename Record>
class Ring {
    static_assert(std::is_trivially_copyable_v<Record>);

public:
    explicit Ring(std::size_t capacity)
        : mask_(std::bit_ceil(capacity < 2 ? std::size_t{2} : capacity) - 1), cells_(new Cell[mask_ + 1]) {
        reset();
    }

    // Empties the ring and its counter. Only while nobody else uses it: at birth, and in a forked child.
    void reset() noexcept {
        for (std::size_t i = 0; i <= mask_; ++i) {
            cells_[i].sequence.store(i, std::memory_order_relaxed);
        }
        head_.store(0, std::memory_order_relaxed);
        tail_.store(0, std::memory_order_relaxed);
        dropped_.store(0, std::memory_order_relaxed);
    }

    [[nodiscard]] std::size_t capacity() const noexcept { return mask_ + 1; }

    bool push(const Record& record) noexcept {
        std::size_t position = head_.load(std::memory_order_relaxed);
        for (;;) {
            Cell& cell = cells_[position & mask_];
            const std::size_t sequence = cell.sequence.load(std::memory_order_acquire);
            const auto distance = static_cast<std::ptrdiff_t>(sequence - position);
            if (distance == 0) {
                if (head_.compare_exchange_weak(position, position + 1, std::memory_order_relaxed)) {
                    cell.record = record;
                    cell.sequence.store(position + 1, std::memory_order_release);
                    return true;
                }
            } else if (distance < 0) {
                dropped_.fetch_add(1, std::memory_order_relaxed);
                return false;
            } else {
                position = head_.load(std::memory_order_relaxed);
            }
        }
    }

    bool pop(Record& record) noexcept {
        std::size_t position = tail_.load(std::memory_order_relaxed);
        for (;;) {
            Cell& cell = cells_[position & mask_];
            const std::size_t sequence = cell.sequence.load(std::memory_order_acquire);
            const auto distance = static_cast<std::ptrdiff_t>(sequence - (position + 1));
            if (distance == 0) {
                if (tail_.compare_exchange_weak(position, position + 1, std::memory_order_relaxed)) {
                    record = cell.record;
                    cell.sequence.store(position + mask_ + 1, std::memory_order_release);
                    return true;
                }
            } else if (distance < 0) {
                return false;
            } else {
                position = tail_.load(std::memory_order_relaxed);
            }
        }
    }

    [[nodiscard]] std::uint64_t dropped() const noexcept { return dropped_.load(std::memory_order_relaxed); }

private:
    struct Cell {
        std::atomic<std::size_t> sequence;
        Record record;
    };

    std::size_t mask_;
    std::unique_ptr<Cell[]> cells_;
    alignas(64) std::atomic<std::size_t> head_{0};
    alignas(64) std::atomic<std::size_t> tail_{0};
    alignas(64) std::atomic<std::uint64_t> dropped_{0};
};

}  // namespace vmthaw
