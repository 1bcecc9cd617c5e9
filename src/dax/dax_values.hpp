#pragma once

#include <cstdint>
#include <type_traits>

namespace vmthaw {

// One live mapping, or the piece of one that later requests left. Without padding: numpy reads it.
struct DaxMapping {
    std::uint64_t guest_address = 0;
    std::uint64_t window_offset = 0;
    std::uint64_t length_bytes = 0;
    std::uint64_t file_offset = 0;  // of its first byte in the client's file
    std::uint64_t node = 0;
    std::uint32_t prot = 0;  // kDaxRead, kDaxWrite
    std::uint32_t reserved = 0;
};
static_assert(sizeof(DaxMapping) == 48 && std::has_unique_object_representations_v<DaxMapping>);

// Since the session's beginning.
struct DaxStats {
    std::uint64_t set_ups = 0;     // that succeeded, replacements included
    std::uint64_t replaced = 0;    // set-ups over exactly an old mapping
    std::uint64_t overlapped = 0;  // set-ups over parts of old ones
    std::uint64_t removes = 0;     // entries of remove requests that succeeded
    std::uint64_t holes = 0;       // of these, entries where nothing was mapped
    std::uint64_t resets = 0;
    std::uint64_t evicted = 0;  // mappings that the quota ended
    std::uint64_t lost = 0;     // pieces that a failed set-up took with it, since they could not be restored
    std::uint64_t failed = 0;   // requests or entries answered with an errno
    std::uint64_t leases_taken = 0;
    std::uint64_t leases_released = 0;
    std::uint64_t mapped_bytes = 0;  // now
    std::uint64_t active_slots = 0;  // now
};

}  // namespace vmthaw
