#pragma once

#include <cstdint>

// Counts what operator new gives to the calling thread, for proofs that a path allocates nothing.
// The replacement operators are in allocation_counter.cpp and hold for the whole test program.
[[nodiscard]] std::uint64_t allocations_of_this_thread() noexcept;
