#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace vmthaw {

// Whether it pays to read a descriptor again as soon as its faults are answered, instead of asking epoll for it. A
// thread that was woken on the worker's own processor runs before the worker does, and has mostly faulted again by
// then: the message is there, and a system call is saved. One on another processor has not come so far. Any thread; a
// count that is lost to another one costs nothing but time.
class RereadChance {
public:
    static constexpr unsigned kMostInARow = 32;
    static constexpr std::uint32_t kTryEvery = 64;
    static constexpr int kHighest = 4;

    // After so many rereads in a row.
    [[nodiscard]] bool is_good(unsigned rereads) noexcept {
        if (rereads == kMostInARow) {
            return false;  // the worker's other VMs have their turn
        }
        if (score_.load(std::memory_order_relaxed) > 0) {
            return true;
        }
        // Now and then all the same, or it would not be found out.
        const std::uint32_t asked = asked_.load(std::memory_order_relaxed) + 1;
        asked_.store(asked, std::memory_order_relaxed);
        return asked % kTryEvery == 0;
    }
    void note(bool found) noexcept {
        const int score = score_.load(std::memory_order_relaxed) + (found ? 1 : -1);
        score_.store(std::clamp(score, 0, kHighest), std::memory_order_relaxed);
    }

private:
    std::atomic<int> score_{0};
    std::atomic<std::uint32_t> asked_{0};
};

}  // namespace vmthaw
