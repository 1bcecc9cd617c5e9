#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>

namespace vmthaw {

// Counts of durations in ns, in buckets of an eighth of an octave (at most 12.5 % off). Any number of writers.
class LatencyHistogram {
public:
    static constexpr std::size_t kSubBuckets = 8;
    static constexpr std::size_t kBuckets = 48 * kSubBuckets;

    void add(std::uint64_t duration_ns) noexcept {
        counts_[bucket_of(duration_ns)].fetch_add(1, std::memory_order_relaxed);
        sum_ns_.fetch_add(duration_ns, std::memory_order_relaxed);
    }
    [[nodiscard]] std::uint64_t sum_ns() const noexcept { return sum_ns_.load(std::memory_order_relaxed); }
    [[nodiscard]] std::uint64_t count(std::size_t bucket) const noexcept {
        return counts_[bucket].load(std::memory_order_relaxed);
    }

    [[nodiscard]] static constexpr std::size_t bucket_of(std::uint64_t duration_ns) noexcept {
        if (duration_ns < kSubBuckets) {
            return static_cast<std::size_t>(duration_ns);
        }
        const auto octave = static_cast<std::size_t>(std::bit_width(duration_ns)) - 1;  // >= 3
        const auto sub = static_cast<std::size_t>((duration_ns >> (octave - 3)) & (kSubBuckets - 1));
        const std::size_t bucket = (octave - 2) * kSubBuckets + sub;
        return bucket < kBuckets ? bucket : kBuckets - 1;
    }
    // The smallest duration that falls into `bucket`.
    [[nodiscard]] static constexpr std::uint64_t lower_bound_ns(std::size_t bucket) noexcept {
        if (bucket < kSubBuckets) {
            return bucket;
        }
        const std::size_t octave = bucket / kSubBuckets + 2;
        return (kSubBuckets + bucket % kSubBuckets) << (octave - 3);
    }

private:
    std::array<std::atomic<std::uint64_t>, kBuckets> counts_{};
    std::atomic<std::uint64_t> sum_ns_{0};
};

}  // namespace vmthaw
