#pragma once

#include <cstdint>

#include "pager/fill_task.hpp"
#include "pager/session_core.hpp"

namespace vmthaw {

// Trace records of what is no fill: pages taken away, pages that could not be had. Noexcept, no lock, no allocation;
// nothing happens while tracing is off. Both look into the table, so the gate must be held (shared will do).

// The VM gave [start, end) back (REMOVE): one record for each region of the range.
void record_removal(const SessionCore& core, std::uint64_t start, std::uint64_t end) noexcept;
// The demanded page of `task` ended by the failure policy.
void record_failure(const SessionCore& core, const FillTask& task) noexcept;

}  // namespace vmthaw
