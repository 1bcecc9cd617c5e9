#pragma once

#include <cstdint>
#include <type_traits>

namespace vmthaw {

// What happened to a range of a DAX window.
enum class DaxEventKind : std::uint8_t { set_up, replace, remove, evict, reset };

// One event of a DAX session: the columns of a trace's table, without padding, so that it can be copied as bytes and
// read by numpy. Times are CLOCK_MONOTONIC.
struct DaxRecord {
    std::uint64_t t_start_ns = 0;     // the request came
    std::uint64_t t_done_ns = 0;      // the mapping was usable, or gone
    std::uint64_t guest_address = 0;  // of the range's first byte
    std::uint64_t length_bytes = 0;
    std::uint64_t node = 0;         // of a set-up; else 0
    std::uint64_t file_offset = 0;  // of a set-up; else 0
    std::int32_t error = 0;         // positive errno
    DaxEventKind kind = DaxEventKind::set_up;
    std::uint8_t prot = 0;  // kDaxRead, kDaxWrite
    std::uint16_t reserved = 0;
};

static_assert(sizeof(DaxRecord) == 56 && std::is_trivially_copyable_v<DaxRecord>);
static_assert(std::has_unique_object_representations_v<DaxRecord>, "padding would leak into trace files");

}  // namespace vmthaw
