#pragma once

#include <cstdint>

namespace vmthaw::testing {

// What tracing adds to a fault, for benchmarks: `threads` threads each do `records` times what the fault path does for
// a record (two readings of the clock, 64 bytes, into one ring), or with `traced` false only look at the empty slot and
// read the clock once, as an untraced fault does for its latency. The ring is emptied outside the measured time, so no
// record is dropped. Gives the ns that the slowest thread took. Throws ArgumentError, std::system_error.
[[nodiscard]] std::uint64_t trace_loop(std::uint64_t threads, std::uint64_t records, bool traced);

}  // namespace vmthaw::testing
