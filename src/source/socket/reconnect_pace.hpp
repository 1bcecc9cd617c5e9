#pragma once

#include <algorithm>
#include <cstdint>

namespace vmthaw {

// When to connect again: at once after a connection that was of use, then after pauses that double from 20 ms to 1 s,
// each shortened by up to a half at random, so that the clients of one server do not all come at the same moment. No
// pause is longer than an eighth of the time that a read waits: also one that begins in a pause outlives several tries.
// Externally locked.
class ReconnectPace {
public:
    explicit ReconnectPace(std::uint64_t patience_ns) noexcept : longest_ns_(std::min(kLongest_ns, patience_ns / 8)) {}

    [[nodiscard]] bool is_due(std::uint64_t now_ns) const noexcept { return now_ns >= due_ns_; }
    [[nodiscard]] std::uint64_t due_ns() const noexcept { return due_ns_; }

    void failed(std::uint64_t now_ns) noexcept {
        const std::uint64_t pause =
            failures_ == 0 ? 0 : std::min(kFirst_ns << std::min(failures_ - 1, 10U), longest_ns_);
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
    static constexpr std::uint64_t kFirst_ns = 20'000'000;
    static constexpr std::uint64_t kLongest_ns = 1'000'000'000;

    std::uint64_t longest_ns_;
    std::uint64_t due_ns_ = 0;
    std::uint64_t mixed_ = 0;
    std::uint32_t failures_ = 0;
};

}  // namespace vmthaw
