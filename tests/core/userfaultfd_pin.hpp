#pragma once

#include <cstddef>
#include <string>

#include "base/unique_fd.hpp"

namespace vmthaw::testing_support {

// Keeps memory pinned (as for DMA) while it lives, by registering it as a fixed buffer of an io_uring. `reason` says
// why that could not be done.
class PinnedMemory {
public:
    PinnedMemory(void* address, std::size_t size);
    ~PinnedMemory();
    PinnedMemory(const PinnedMemory&) = delete;
    PinnedMemory& operator=(const PinnedMemory&) = delete;
    std::string reason;

private:
    UniqueFd ring_;
};

}  // namespace vmthaw::testing_support
