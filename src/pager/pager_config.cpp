#include "pager/pager_config.hpp"

#include <bit>

#include "base/error.hpp"
#include "base/thread.hpp"

namespace vmthaw {

void check_config(const PagerConfig& config) {
    constexpr std::uint64_t kMaxFillBytes = 1U << 30U;
    if (config.fill_bytes < 4096 || config.fill_bytes > kMaxFillBytes || !std::has_single_bit(config.fill_bytes)) {
        throw ArgumentError("fill_bytes must be a power of two from 4096 to 1 GiB, got " +
                            std::to_string(config.fill_bytes));
    }
    if (config.retry_min_ns > config.retry_max_ns) {
        throw ArgumentError("retry_min must not be larger than retry_max");
    }
    if (config.max_in_flight < 64 || config.max_in_flight > 1U << 20U) {
        throw ArgumentError("max_in_flight must be from 64 to 1048576, got " + std::to_string(config.max_in_flight));
    }
    if (config.trace_records > 0) {
        check_trace_records(config.trace_records);
    }
    if (config.placement == Placement::pinned) {
        for (const int cpu : usable_cpus()) {
            if (cpu == config.cpu) {
                return;
            }
        }
        throw ArgumentError("cpu " + std::to_string(config.cpu) + " is not one this process may run on");
    }
}

void check_trace_records(std::uint32_t records) {
    if (records < 1 || records > 1U << 26U) {
        throw ArgumentError(
            "trace_records must be at most 67108864 (and at least 1 where tracing is switched on), got " +
            std::to_string(records));
    }
}

}  // namespace vmthaw
