#include "pager/memory_layout.hpp"

#include <algorithm>
#include <limits>

namespace vmthaw {
namespace {

constexpr std::uint64_t kGiB = 1ULL << 30U;
constexpr std::uint64_t kEndless = 1ULL << 46U;

}  // namespace

// Firecracker, src/vmm/src/arch/x86_64/layout.rs: the hole for 32-bit devices is the last GiB below 4 GiB.
MemoryLayout MemoryLayout::x86_64() { return custom({{0, 0, 3 * kGiB}, {3 * kGiB, 4 * kGiB, kEndless}}); }

// Firecracker, src/vmm/src/arch/aarch64/layout.rs: DRAM starts at 2 GiB.
MemoryLayout MemoryLayout::aarch64() { return custom({{0, 2 * kGiB, kEndless}}); }

MemoryLayout MemoryLayout::host() {
#if defined(__aarch64__)
    return aarch64();
#else
    return x86_64();
#endif
}

MemoryLayout MemoryLayout::custom(std::vector<Span> spans) {
    constexpr std::uint64_t kMax = std::numeric_limits<std::uint64_t>::max();
    for (const Span& span : spans) {
        if (span.size == 0 || span.size > kMax - span.file_offset || span.size > kMax - span.guest_address) {
            throw ArgumentError("layout span at file offset " + hex(span.file_offset) + " is empty or overflows");
        }
    }
    std::ranges::sort(spans, {}, &Span::guest_address);
    for (std::size_t i = 1; i < spans.size(); ++i) {
        if (spans[i].guest_address - spans[i - 1].guest_address < spans[i - 1].size) {
            throw ArgumentError("layout spans overlap in guest memory at " + hex(spans[i].guest_address));
        }
    }
    std::ranges::sort(spans, {}, &Span::file_offset);
    for (std::size_t i = 1; i < spans.size(); ++i) {
        if (spans[i].file_offset - spans[i - 1].file_offset < spans[i - 1].size) {
            throw ArgumentError("layout spans overlap in the file at offset " + hex(spans[i].file_offset));
        }
    }
    if (spans.empty()) {
        throw ArgumentError("a memory layout needs at least one span");
    }
    return MemoryLayout(std::move(spans));
}

namespace {

const MemoryLayout::Span& span_of(const std::vector<MemoryLayout::Span>& spans, std::uint64_t file_offset) {
    auto next = std::ranges::upper_bound(spans, file_offset, {}, &MemoryLayout::Span::file_offset);
    if (next != spans.begin()) {
        const MemoryLayout::Span& span = *std::prev(next);
        if (file_offset - span.file_offset < span.size) {
            return span;
        }
    }
    throw ArgumentError("file offset " + hex(file_offset) + " is outside the memory layout");
}

}  // namespace

std::uint64_t MemoryLayout::guest_address(std::uint64_t file_offset) const {
    const Span& span = span_of(spans_, file_offset);
    return span.guest_address + (file_offset - span.file_offset);
}

std::vector<Region> MemoryLayout::assign(const std::vector<Region>& regions) const {
    std::vector<Region> assigned;
    for (Region region : regions) {
        while (region.size > 0) {
            const Span& span = span_of(spans_, region.source_offset);
            const std::uint64_t into = region.source_offset - span.file_offset;
            Region piece = region;
            piece.guest_address = span.guest_address + into;
            piece.size = std::min(region.size, span.size - into);
            assigned.push_back(piece);
            region.host_address += piece.size;
            region.source_offset += piece.size;
            region.size -= piece.size;
        }
    }
    return assigned;
}

}  // namespace vmthaw
