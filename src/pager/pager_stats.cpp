#include "pager/pager_stats.hpp"

#include <cmath>

namespace vmthaw {

PagerStats snapshot(const PagerCounters& counters) noexcept {
    PagerStats stats;
    stats.faults = counters.faults.load(std::memory_order_relaxed);
    stats.prewarmed = counters.prewarmed.load(std::memory_order_relaxed);
    stats.installed = counters.installed.load(std::memory_order_relaxed);
    stats.zero = counters.zero.load(std::memory_order_relaxed);
    stats.fault_around = counters.fault_around.load(std::memory_order_relaxed);
    stats.populated = counters.populated.load(std::memory_order_relaxed);
    stats.prefetched = counters.prefetched.load(std::memory_order_relaxed);
    stats.redundant = counters.redundant.load(std::memory_order_relaxed);
    stats.coalesced = counters.coalesced.load(std::memory_order_relaxed);
    stats.retried = counters.retried.load(std::memory_order_relaxed);
    stats.deferred = counters.deferred.load(std::memory_order_relaxed);
    stats.failed = counters.failed.load(std::memory_order_relaxed);
    stats.removed = counters.removed.load(std::memory_order_relaxed);
    stats.forwarded = counters.forwarded.load(std::memory_order_relaxed);
    stats.reinstalls = counters.reinstalls.load(std::memory_order_relaxed);
    stats.overflowed = counters.overflowed.load(std::memory_order_relaxed);
    stats.source_bytes = counters.source_bytes.load(std::memory_order_relaxed);
    stats.events = counters.events.load(std::memory_order_relaxed);
    stats.latency_sum_ns = counters.latency.sum_ns();
    for (std::size_t i = 0; i < stats.latency.size(); ++i) {
        stats.latency[i] = counters.latency.count(i);
    }
    return stats;
}

PagerStats& PagerStats::operator+=(const PagerStats& other) noexcept {
    faults += other.faults;
    prewarmed += other.prewarmed;
    installed += other.installed;
    zero += other.zero;
    fault_around += other.fault_around;
    populated += other.populated;
    prefetched += other.prefetched;
    redundant += other.redundant;
    coalesced += other.coalesced;
    retried += other.retried;
    deferred += other.deferred;
    failed += other.failed;
    removed += other.removed;
    forwarded += other.forwarded;
    reinstalls += other.reinstalls;
    overflowed += other.overflowed;
    source_bytes += other.source_bytes;
    events += other.events;
    latency_sum_ns += other.latency_sum_ns;
    for (std::size_t i = 0; i < latency.size(); ++i) {
        latency[i] += other.latency[i];
    }
    return *this;
}

std::uint64_t PagerStats::latency_ns(double fraction) const noexcept {
    std::uint64_t total = 0;
    for (const std::uint64_t count : latency) {
        total += count;
    }
    const double wanted = std::ceil(fraction * static_cast<double>(total));
    std::uint64_t seen = 0;
    for (std::size_t i = 0; i < latency.size(); ++i) {
        seen += latency[i];
        if (seen > 0 && static_cast<double>(seen) >= wanted) {
            return LatencyHistogram::lower_bound_ns(i + 1) - 1;
        }
    }
    return 0;
}

}  // namespace vmthaw
