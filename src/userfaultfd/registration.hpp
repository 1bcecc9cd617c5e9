#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "userfaultfd/userfaultfd.hpp"

namespace vmthaw {

struct AddressRange {
    std::uint64_t host_address = 0;
    std::uint64_t size_bytes = 0;
};

// The ranges of one process. Borrows both: they must outlive the call.
struct DescriptorRanges {
    const Userfaultfd* userfaultfd = nullptr;
    std::span<const AddressRange> ranges;
};

struct RegistrationOutcome {
    std::vector<std::size_t> skipped;  // indices of the entries whose process is gone, ascending
    std::uint64_t ioctls = 0;          // range ioctls that every registered range has (0: nothing was registered)
};

// Registers every range of every entry with `modes`, or none: on a failure other than a dead process, what this call
// registered is unregistered again and the SystemError names the range. A process that is gone (ENOMEM, confirmed by
// ESRCH of a fill) is skipped.
RegistrationOutcome register_regions(std::span<const DescriptorRanges> entries, std::uint64_t modes);

// Unregisters every range it can, skipping processes that are gone, and only then throws the first failure, if any.
// A thread that waits for a page of a range at that moment reads zeros.
RegistrationOutcome unregister_regions(std::span<const DescriptorRanges> entries);

}  // namespace vmthaw
