#pragma once

#include <cstdint>

#include "trace/dax_record.hpp"

namespace vmthaw {

// Whether a session's calls are to be logged at debug level as `vmthaw.dax`: the log's level says so, or the
// environment variable VMTHAW_DAX_TRACE=stderr|FILE, which is read once in the life of the process and has them
// appended there.
[[nodiscard]] bool dax_log_is_on() noexcept;
void log_dax_event(const DaxRecord& event) noexcept;

// Where `VMTHAW_DAX_TRACE` asks for lines: a descriptor of its own, or -1 (unset, empty, or no file to be opened).
[[nodiscard]] int open_dax_trace(const char* value) noexcept;

}  // namespace vmthaw
