#pragma once

#include <cstdint>

#include "source/page_source.hpp"
#include "trace/fault_record.hpp"

namespace vmthaw {

// A run of pages that one fill owns (their states say `filling` or `zeroing`), the touched one first. A plain value:
// it is retried, parked and handed between threads by copying.
struct FillTask {
    std::uint64_t host_address = 0;    // of the first page still to do
    std::uint64_t pages = 0;           // still to do, from host_address on
    std::uint64_t demand_address = 0;  // the page somebody waits for, while `demanded`
    std::uint64_t page_size = 4096;
    std::uint64_t t_fault_ns = 0;
    std::uint64_t t_fetched_ns = 0;
    std::uint32_t tid = 0;
    std::uint8_t flags = 0;  // of the message: write 1, write-protect 2, minor 4
    FaultKind kind = FaultKind::demand;
    bool demanded = false;    // the touched page is not answered yet
    bool recheck = false;     // the state said present, and yet somebody faulted
    bool doomed = false;      // given up: only the failure policy is left to apply
    bool counted = false;     // among the faults in flight
    std::uint16_t tries = 0;  // source reads that failed
    std::uint16_t parks = 0;  // EAGAINs
};

enum class FillResult : std::uint8_t {
    done,
    need_source,    // would block: hand it to a source thread
    again,          // an event is pending: park it
    source_failed,  // see FillFailure
    failed,         // the kernel refuses for good: see FillFailure
    gone,           // the process has exited
};

struct FillFailure {
    ReadResult read;                 // of the source, for source_failed
    int errno_value = 0;             // of the kernel, for failed
    std::uint64_t host_address = 0;  // of the page
    std::uint64_t offset = 0;        // in the source
};

}  // namespace vmthaw
