#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "pager/region.hpp"

namespace vmthaw {

struct UnregisteredRange {
    std::uint64_t start;
    std::uint64_t end;
    bool operator==(const UnregisteredRange&) const noexcept = default;
};

// The parts of `regions` that are mapped but not registered with any userfaultfd, by the VmFlags of /proc/<pid>/smaps
// ("um": missing, "ui": minor; proc(5)). A VMM that mapped anew over its memory lost the registration there silently.
// Empty where smaps cannot be read. Reads the whole file: milliseconds for a large VM.
[[nodiscard]] std::vector<UnregisteredRange> find_unregistered(pid_t pid, const std::vector<Region>& regions);

// The same from the text of an smaps file, which is input like any other. For tests.
[[nodiscard]] std::vector<UnregisteredRange> find_unregistered_in(std::string_view smaps,
                                                                  const std::vector<Region>& regions);

}  // namespace vmthaw
