#pragma once

#include <cstdint>
#include <string_view>

namespace vmthaw {

enum class LogLevel : std::uint8_t { debug, info, warning, error };

// Writes one line to the bounded log ring; the drainer hands it to Python's logging as `vmthaw.<component>`.
// Safe on every thread, the fault path included: never blocks, never allocates, never takes the GIL.
// Text beyond the record's size is cut; a full ring drops the line and counts it. `component` must be a literal.
void log_line(LogLevel level, const char* component, std::string_view text) noexcept;

}  // namespace vmthaw
