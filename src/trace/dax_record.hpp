#pragma once

#include <cstdint>
#include <type_traits>

namespace vmthaw {

// What happened to a range of a DAX window. lost: a failed set-up took a mapping with it.
enum class DaxEventKind : std::uint8_t { set_up, replace, remove, evict, reset, lost };

// One event of a DAX session: the columns of a trace's table, without padding, so that it can be copied as bytes and
// read by numpy. Times are CLOCK_MONOTONIC, the clock of FaultRecord.
struct DaxRecord {
    std::uint64_t t_start_ns = 0;     // the request came
    std::uint64_t t_done_ns = 0;      // the mapping was usable, or gone
    std::uint64_t guest_address = 0;  // of the range's first byte
    std::uint64_t window_offset = 0;  // the same in the window: a request's moffset
    std::uint64_t length_bytes = 0;
    std::uint64_t node = 0;         // of a mapping; else 0
    std::uint64_t file_offset = 0;  // of a mapping's part in the range; else 0
    std::uint32_t session = 0;      // DaxSession::id()
    std::int16_t error = 0;         // positive errno
    DaxEventKind kind = DaxEventKind::set_up;
    std::uint8_t prot = 0;  // kDaxRead, kDaxWrite
};

static_assert(sizeof(DaxRecord) == 64 && std::is_trivially_copyable_v<DaxRecord>);
static_assert(std::has_unique_object_representations_v<DaxRecord>, "padding would leak into trace files");

}  // namespace vmthaw
