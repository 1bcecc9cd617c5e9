#pragma once

#include <cstdint>

namespace vmthaw {

// What a fill (copy, zero, continue, poison, move) or a write-protect came to. Never an exception: this is the hot
// path.
enum class FillStatus : std::uint8_t {
    done,        // the whole range
    present,     // EEXIST at `done_bytes`: somebody was faster, or (hugetlb) the pool is exhausted; wake the range
    again,       // EAGAIN at `done_bytes`: an event is pending; drain events, park, retry on a timer
    unmapped,    // ENOENT: crosses a registration or a mapping, or is unmapped
    gone,        // ESRCH: the process has exited
    no_memory,   // ENOMEM: tmpfs full, cgroup limit
    bad_source,  // EFAULT: the source address cannot be read (a truncated file), or CONTINUE without a cached page
    invalid,     // EINVAL: unaligned, wrong mode, unsupported
    failed,      // anything else: see errno_value
};

struct FillOutcome {
    FillStatus status = FillStatus::done;
    int errno_value = 0;           // 0 when done
    std::uint64_t done_bytes = 0;  // installed from the start of the range, partial progress included
};

}  // namespace vmthaw
