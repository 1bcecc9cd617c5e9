#include "pager/guest_run.hpp"

#include <algorithm>
#include <string>

#include "base/error.hpp"

namespace vmthaw {

GuestRuns make_guest_runs(std::vector<GuestRun> runs) {
    constexpr std::size_t kMostRuns = std::size_t{1} << 26U;
    if (runs.size() > kMostRuns) {
        throw ArgumentError("working_set must be at most " + std::to_string(kMostRuns) + " runs, got " +
                            std::to_string(runs.size()));
    }
    for (const GuestRun& run : runs) {
        if (run.size == 0 || run.size > ~run.guest_address) {
            throw ArgumentError("working_set: the run of " + std::to_string(run.size) + " bytes at guest address " +
                                hex(run.guest_address) + " is empty or reaches beyond the end of memory");
        }
    }
    std::ranges::sort(runs, {}, &GuestRun::guest_address);
    std::vector<GuestRun> joined;
    for (const GuestRun& run : runs) {
        if (!joined.empty() && run.guest_address <= joined.back().end()) {
            joined.back().size = std::max(joined.back().end(), run.end()) - joined.back().guest_address;
        } else {
            joined.push_back(run);
        }
    }
    return std::make_shared<const std::vector<GuestRun>>(std::move(joined));
}

}  // namespace vmthaw
