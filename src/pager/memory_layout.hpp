#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "pager/region.hpp"

namespace vmthaw {

// Where offsets of a memory file lie in guest-physical memory. Firecracker's hand-over carries no guest address, so
// this fills Region::guest_address. A plain value.
class MemoryLayout {
public:
    struct Span {
        std::uint64_t file_offset;
        std::uint64_t guest_address;
        std::uint64_t size;
    };

    // x86-64: from offset 3 GiB on, one GiB higher. aarch64: from guest 2 GiB.
    [[nodiscard]] static MemoryLayout x86_64();
    [[nodiscard]] static MemoryLayout aarch64();
    [[nodiscard]] static MemoryLayout host();  // of the machine we run on
    // Spans given by the caller, in any order. Throws ArgumentError when they overlap or overflow.
    [[nodiscard]] static MemoryLayout custom(std::vector<Span> spans);

    // Throws ArgumentError when the offset is outside every span.
    [[nodiscard]] std::uint64_t guest_address(std::uint64_t file_offset) const;
    // Fills guest_address of every region; a region that crosses a span's end is split there.
    [[nodiscard]] std::vector<Region> assign(const std::vector<Region>& regions) const;
    [[nodiscard]] const std::vector<Span>& spans() const noexcept { return spans_; }

private:
    explicit MemoryLayout(std::vector<Span> spans) : spans_(std::move(spans)) {}
    std::vector<Span> spans_;
};

}  // namespace vmthaw
