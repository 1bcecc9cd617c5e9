#pragma once

#include <algorithm>
#include <cstdint>

namespace vmthaw {

// When to connect again: at once after a connection that was of use, then after pauses that double from 20 ms to 1 s,
// each shortened by up to a half at random, so that the clients of one server do not all come at the same moment.
// Externally locked.
class ReconnectPace {
public:
    [[nodiscard]] bool is_due(std::uint64_t now_ns) const noexcept { return now_ns >= due_ns_; }
    [[nodiscard]] std::uint64_t due_ns() const noexcept { return due_ns_; }

    void failed(std::uint64_t now_ns) noexcept {
        constexpr std::uint64_t kFirst_ns = 20'000'000;
        constexpr std::uint64_t kLongest_ns = 1'000'000'000;
        const std::uint64_t pause =
            failures_ == 0 ? 0 : std::min(kFirst_ns << std::min(failures_ - 1, 10U), kLongest_ns);
        ++failures_;
        mixed_ = (mixed_ ^ now_ns) * 0x9E3779B97F4A7C15U;
        due_ns_ = now_ns + pause - (mixed_ >> 32U) * (pause / 2) / 0xFFFFFFFFU;
    }
    // The connection was of use.
    void reset() noexcept {
        failures_ = 0;
        due_ns_ = 0;
    }

private:
    std::uint64_t due_ns_ = 0;
    std::uint64_t mixed_ = 0;
    std::uint32_t failures_ = 0;
};

}  // namespace vmthaw
