#pragma once

#include <cstdint>

namespace vmthaw {

// What INIT settled, for as long as its client is there.
struct FuseSession {
    std::uint32_t minor = 0;
    std::uint64_t flags = 0;
    std::uint32_t max_write_bytes = 0;
    std::uint64_t entry_ttl_ns = 0;
    std::uint64_t attr_ttl_ns = 0;
};

}  // namespace vmthaw
