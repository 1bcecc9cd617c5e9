#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/ring.hpp"
#include "trace/fault_record.hpp"

namespace vmthaw {

// Carries fault records from the workers to whoever records them. record() is for the fault path: no lock, no wait,
// no allocation; a full ring drops the record and counts it. drain() may run on any other thread.
class TraceRing {
public:
    explicit TraceRing(std::size_t capacity) : ring_(capacity) {}

    bool record(const FaultRecord& record) noexcept { return ring_.push(record); }

    // Appends at most `limit` records to `out`, oldest first; gives back how many.
    std::size_t drain(std::vector<FaultRecord>& out, std::size_t limit) {
        std::size_t taken = 0;
        FaultRecord record;
        while (taken < limit && ring_.pop(record)) {
            out.push_back(record);
            ++taken;
        }
        return taken;
    }

    [[nodiscard]] std::size_t capacity() const noexcept { return ring_.capacity(); }
    [[nodiscard]] std::uint64_t dropped() const noexcept { return ring_.dropped(); }

private:
    Ring<FaultRecord> ring_;
};

}  // namespace vmthaw
