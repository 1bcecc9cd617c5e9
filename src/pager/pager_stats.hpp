#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "pager/latency_histogram.hpp"

namespace vmthaw {

// Counters of one pager or session. Written with relaxed atomics from any thread, read at any time: the figures of one
// snapshot may be a few events apart. Pages are host pages of their region.
struct PagerCounters {
    std::atomic<std::uint64_t> faults{0};        // messages, serve_fault calls and pre-warmed pages
    std::atomic<std::uint64_t> prewarmed{0};     // pages
    std::atomic<std::uint64_t> installed{0};     // pages, zeros included
    std::atomic<std::uint64_t> zero{0};          // pages installed as zeros
    std::atomic<std::uint64_t> fault_around{0};  // pages installed beyond the one asked for
    std::atomic<std::uint64_t> populated{0};     // pages installed by background filling
    std::atomic<std::uint64_t> prefetched{0};    // pages installed from a working set
    std::atomic<std::uint64_t> redundant{0};     // EEXIST: somebody was faster
    std::atomic<std::uint64_t> coalesced{0};     // faults that joined a fill under way
    std::atomic<std::uint64_t> retried{0};       // source reads tried again
    std::atomic<std::uint64_t> deferred{0};      // fills parked because an event was pending (EAGAIN)
    std::atomic<std::uint64_t> failed{0};        // faults that ended by the failure policy
    std::atomic<std::uint64_t> removed{0};       // pages taken away by REMOVE
    std::atomic<std::uint64_t> forwarded{0};     // foreign faults and unknown events
    std::atomic<std::uint64_t> reinstalls{0};    // registrations that were lost and mended
    std::atomic<std::uint64_t> overflowed{0};    // faults put back because too many were in flight
    std::atomic<std::uint64_t> source_bytes{0};  // bytes copied from the source
    std::atomic<std::uint64_t> events{0};        // messages that are not faults
    LatencyHistogram latency;                    // from the message read to the page installed
};

inline void bump(std::atomic<std::uint64_t>& counter, std::uint64_t by = 1) noexcept {
    counter.fetch_add(by, std::memory_order_relaxed);
}

// PagerCounters at one moment: a plain value that can be added up.
struct PagerStats {
    std::uint64_t faults = 0;
    std::uint64_t prewarmed = 0;
    std::uint64_t installed = 0;
    std::uint64_t zero = 0;
    std::uint64_t fault_around = 0;
    std::uint64_t populated = 0;
    std::uint64_t prefetched = 0;
    std::uint64_t redundant = 0;
    std::uint64_t coalesced = 0;
    std::uint64_t retried = 0;
    std::uint64_t deferred = 0;
    std::uint64_t failed = 0;
    std::uint64_t removed = 0;
    std::uint64_t forwarded = 0;
    std::uint64_t reinstalls = 0;
    std::uint64_t overflowed = 0;
    std::uint64_t source_bytes = 0;
    std::uint64_t events = 0;
    std::uint64_t latency_sum_ns = 0;
    std::array<std::uint64_t, LatencyHistogram::kBuckets> latency{};

    PagerStats& operator+=(const PagerStats& other) noexcept;
    // The duration in ns that `fraction` (0 to 1) of the faults took at most; 0 without faults.
    [[nodiscard]] std::uint64_t latency_ns(double fraction) const noexcept;
};

[[nodiscard]] PagerStats snapshot(const PagerCounters& counters) noexcept;

}  // namespace vmthaw
