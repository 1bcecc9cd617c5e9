#pragma once

#include <cstdint>

namespace vmthaw {

// What a mapper needs to map a region of a file: a descriptor, not a host pointer. The descriptor stays open and the
// backend's own until the lease is given back, which happens exactly once. `token` is the backend's.
struct Lease {
    int fd = -1;
    std::uint64_t offset_bytes = 0;
    std::uint64_t length_bytes = 0;
    std::uint64_t token = 0;
};

}  // namespace vmthaw
