#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>

namespace vmthaw {

// Whether the page tables of `pid` hold something at `host_address` (a page, or one that was swapped out), read from
// /proc/<pid>/pagemap. Nothing when that cannot be read (the process is gone, or belongs to somebody else).
// Its use: COPY on hugetlb says EEXIST both for a present page and for an exhausted pool, and only here they differ.
// A page of a *shared* mapping that lies in the page cache without being mapped counts as absent.
// Safe on every thread; opens and reads one file, so not for the common path.
[[nodiscard]] std::optional<bool> page_is_present(pid_t pid, std::uint64_t host_address) noexcept;

}  // namespace vmthaw
