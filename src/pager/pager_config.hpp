#pragma once

#include <cstdint>
#include <string>

#include "pager/fill_planner.hpp"

namespace vmthaw {

// What becomes of a page whose bytes cannot be had.
enum class FailurePolicy : std::uint8_t {
    automatic,  // kill where the VMM's pidfd is known (and is not this process), else poison
    kill,       // SIGKILL by the pidfd taken at connect
    poison,     // UFFDIO_POISON: the toucher gets SIGBUS (as MMIO under some KVM back ends: the VMM may then answer it)
    hang,       // leave the toucher asleep: only for debugging
};

// Which workers read a session's descriptor.
enum class Placement : std::uint8_t {
    automatic,  // local while there are no more sessions than processors, else sharded
    local,      // every pinned worker waits on it, so that the faulter's own processor answers
    sharded,    // one pinned worker has it
    pinned,     // the worker of `cpu` has it: for a vCPU pinned there
};

// When a recorded working set is installed.
enum class WorkingSetMode : std::uint8_t {
    alongside,  // from the hand-over on, while the guest runs, giving way to its faults
    before,     // before the first fault is read
};

// How a pager behaves. A plain value; copied into each session.
struct PagerConfig {
    FillMode fill_mode = FillMode::window;
    std::uint64_t fill_bytes = 2U << 20U;  // the largest window, or the block
    std::uint32_t retries = 3;             // of a failing source, after the first try
    std::uint64_t retry_min_ns = 50'000'000;
    std::uint64_t retry_max_ns = 500'000'000;
    FailurePolicy failure_policy = FailurePolicy::automatic;
    Placement placement = Placement::automatic;
    int cpu = -1;  // for Placement::pinned
    std::uint64_t poll_interval_ns = 1'000'000'000;
    std::uint64_t drain_timeout_ns = 30'000'000'000;
    std::uint32_t max_in_flight = 4096;  // faults waiting for source threads, per VM
    std::uint32_t trace_records = 0;     // capacity of the session's trace ring; 0: no records
    WorkingSetMode working_set_mode = WorkingSetMode::alongside;
};

// Throws ArgumentError that names the field.
void check_config(const PagerConfig& config);
// The capacity of a trace ring, where there is to be one.
void check_trace_records(std::uint32_t records);

}  // namespace vmthaw
