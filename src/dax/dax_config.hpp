#pragma once

#include <cstddef>
#include <cstdint>

namespace vmthaw {

// What a DAX session promises its client and its host. All in bytes.
struct DaxConfig {
    std::uint64_t guest_base = 0;     // guest address of the window's first byte; a multiple of the granule
    std::uint64_t window_bytes = 0;   // a multiple of the granule
    std::uint64_t granule_bytes = 0;  // 4096, 16384 or 65536; 0: the host's page, or 4096
    bool read_only = false;           // WRITE is refused with EROFS
    std::uint64_t quota_bytes = 0;    // most bytes mapped at once, beyond which the oldest set-ups go; 0: the window
    std::size_t most_mappings = 1U << 20U;  // what a client may make this process remember; beyond it ENOSPC
};

// The configuration with its defaults filled in. Throws ArgumentError, which names the field.
[[nodiscard]] DaxConfig checked(DaxConfig config);

}  // namespace vmthaw
