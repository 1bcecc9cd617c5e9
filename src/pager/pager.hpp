#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "pager/pager_config.hpp"
#include "pager/pager_stats.hpp"
#include "pager/region.hpp"

namespace vmthaw {

// Serves guest pages by address, without a kernel fault: for VMMs that ask over a wire, and for tests of a source.
// Regions are checked and sorted at construction (throws Error(RegionError)); everything else is thread-safe, takes no
// lock and may block in the source.
class Pager {
public:
    Pager(std::vector<Region> regions, std::shared_ptr<PageSource> source, const PagerConfig& config = {});

    [[nodiscard]] bool contains(std::uint64_t guest_address) const noexcept;
    // The page of `out.size()` bytes (a power of two) that holds `guest_address`, which is aligned down. What lies
    // behind the end of its region reads as zeros. Retries a failing source as configured.
    // Throws Error(OutOfRegionError), ArgumentError, PageSourceErrors. Counts in faults, failed and source_bytes.
    void serve_fault(std::uint64_t guest_address, std::span<std::byte> out);

    [[nodiscard]] const std::vector<Region>& regions() const noexcept { return regions_; }
    [[nodiscard]] const std::shared_ptr<PageSource>& source() const noexcept { return source_; }
    [[nodiscard]] PagerCounters& counters() noexcept { return counters_; }

private:
    [[nodiscard]] const Region* find(std::uint64_t guest_address) const noexcept;
    [[nodiscard]] ReadResult read_with_retries(std::uint64_t offset, std::span<std::byte> out) noexcept;

    std::vector<Region> regions_;  // by host address
    std::shared_ptr<PageSource> source_;
    PagerConfig config_;
    PagerCounters counters_;
};

}  // namespace vmthaw
