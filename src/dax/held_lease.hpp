#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "filesystem/lease.hpp"

namespace vmthaw {

// A lease that a session holds for one set-up, owned by all the pieces that later requests left of it together. It goes
// back to the backend when `pieces` comes to 0. A node of two lists of the session: by age, and of those that are to go
// back.
struct HeldLease {
    Lease lease;
    std::uint64_t node = 0;
    std::uint64_t window_offset = 0;  // of the whole mapping, as it was set up
    std::uint64_t length_bytes = 0;
    std::uint64_t file_offset = 0;  // in the client's file
    std::uint32_t prot = 0;
    std::size_t pieces = 0;
    HeldLease* older = nullptr;
    HeldLease* newer = nullptr;
    std::unique_ptr<HeldLease> next_dead;

    // What of the lease lies at a range of the window that one piece covers.
    [[nodiscard]] Lease part(std::uint64_t start, std::uint64_t length) const noexcept {
        return {lease.fd, lease.offset_bytes + (start - window_offset), length, lease.token};
    }
};

}  // namespace vmthaw
