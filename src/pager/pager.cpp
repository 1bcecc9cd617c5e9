#include "pager/pager.hpp"

#include <algorithm>
#include <bit>
#include <chrono>
#include <thread>

#include "base/clock.hpp"

namespace vmthaw {

Pager::Pager(std::vector<Region> regions, std::shared_ptr<PageSource> source, const PagerConfig& config)
    : regions_(check_regions(std::move(regions), source.get())), source_(std::move(source)), config_(config) {
    check_config(config_);
    std::ranges::sort(regions_, {}, &Region::guest_address);
}

const Region* Pager::find(std::uint64_t guest_address) const noexcept {
    auto next = std::ranges::upper_bound(regions_, guest_address, {}, &Region::guest_address);
    if (next == regions_.begin()) {
        return nullptr;
    }
    const Region& region = *std::prev(next);
    return guest_address - region.guest_address < region.size ? &region : nullptr;
}

bool Pager::contains(std::uint64_t guest_address) const noexcept { return find(guest_address) != nullptr; }

ReadResult Pager::read_with_retries(std::uint64_t offset, std::span<std::byte> out) noexcept {
    ReadResult result = source_->read(offset, out);
    std::uint64_t delay_ns = config_.retry_min_ns;
    for (std::uint32_t i = 0; i < config_.retries && result.status == ReadStatus::io_error; ++i) {
        bump(counters_.retried);
        std::this_thread::sleep_for(std::chrono::nanoseconds(delay_ns));
        delay_ns = std::min(delay_ns * 2, config_.retry_max_ns);
        result = source_->read(offset, out);
    }
    return result;
}

void Pager::serve_fault(std::uint64_t guest_address, std::span<std::byte> out) {
    constexpr std::size_t kLargest = 1U << 30U;
    if (!std::has_single_bit(out.size()) || out.size() > kLargest) {
        throw ArgumentError("page_size must be a power of two up to 1 GiB, got " + std::to_string(out.size()));
    }
    bump(counters_.faults);
    const std::uint64_t start_ns = monotonic_ns();
    const Region* region = find(guest_address);
    if (region == nullptr) {
        bump(counters_.failed);
        throw Error("guest address " + hex(guest_address) + " is in no region", "OutOfRegionError",
                    {{"address", guest_address}});
    }
    // An aligned page may begin before its region or end behind it: those bytes are nobody's.
    const std::uint64_t page = guest_address & ~(std::uint64_t{out.size()} - 1);
    const std::uint64_t from = std::max(page, region->guest_address);
    const std::uint64_t size = std::min(out.size() - (from - page), region->guest_end() - from);
    std::ranges::fill(out, std::byte{0});
    const std::span<std::byte> inside = out.subspan(from - page, size);
    const std::uint64_t offset = region->source_offset + (from - region->guest_address);
    const ReadResult result = read_with_retries(offset, inside);
    if (!result.ok()) {
        bump(counters_.failed);
        throw_read_error(*source_, offset, size, result);
    }
    bump(counters_.installed);
    bump(counters_.source_bytes, size);
    counters_.latency.add(monotonic_ns() - start_ns);
}

}  // namespace vmthaw
