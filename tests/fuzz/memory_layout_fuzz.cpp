#include <fuzzer/FuzzedDataProvider.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "fuzz_check.hpp"
#include "pager/memory_layout.hpp"
#include "pager/region.hpp"

// Regions and layouts made of hostile numbers: refused with the right class, or every promise of check_regions() and
// MemoryLayout::assign() holds, re-checked here by subtraction.
namespace {

using vmthaw::MemoryLayout;
using vmthaw::Region;

class SizedSource final : public vmthaw::PageSource {
public:
    explicit SizedSource(std::uint64_t size) : size_(size) {}
    [[nodiscard]] std::uint64_t size() const noexcept override { return size_; }
    [[nodiscard]] bool covers(std::uint64_t offset, std::uint64_t size) const noexcept override {
        return offset <= size_ && size <= size_ - offset;
    }
    [[nodiscard]] vmthaw::Extent extent_at(std::uint64_t offset, std::uint64_t limit) const noexcept override {
        return {offset, limit, vmthaw::ExtentKind::zero};
    }
    [[nodiscard]] vmthaw::ReadResult read(std::uint64_t /*offset*/, std::span<std::byte> /*out*/) noexcept override {
        return {};
    }
    [[nodiscard]] std::vector<vmthaw::Extent> extents() const override { return {}; }
    [[nodiscard]] std::string description() const override { return "fuzz"; }

private:
    std::uint64_t size_;
};

// Numbers near powers of two and page boundaries, where mistakes live.
std::uint64_t number(FuzzedDataProvider& input) {
    const std::uint64_t base = input.ConsumeIntegral<std::uint16_t>();
    const unsigned shift = input.ConsumeIntegralInRange<unsigned>(0, 63);
    const auto nudge = static_cast<std::uint64_t>(input.ConsumeIntegralInRange<int>(-1, 1));
    return (base << shift) + nudge * (input.ConsumeBool() ? 4096U : 1U);
}

void check_promises(const std::vector<Region>& regions, const SizedSource& source) {
    FUZZ_CHECK(!regions.empty() && regions.size() <= 4096);
    for (std::size_t i = 0; i < regions.size(); ++i) {
        const Region& region = regions[i];
        FUZZ_CHECK(region.page_size >= 4096 && (region.page_size & (region.page_size - 1)) == 0);
        FUZZ_CHECK(region.size > 0 && region.size % region.page_size == 0);
        FUZZ_CHECK(region.host_address % region.page_size == 0 && region.guest_address % region.page_size == 0);
        FUZZ_CHECK(region.source_offset % 4096 == 0);
        FUZZ_CHECK(UINT64_MAX - region.host_address >= region.size);
        FUZZ_CHECK(UINT64_MAX - region.guest_address >= region.size);
        FUZZ_CHECK(UINT64_MAX - region.source_offset >= region.size);
        // All but what may lie behind the end in the last page.
        FUZZ_CHECK(source.size() >= region.source_offset);
        FUZZ_CHECK(source.size() - region.source_offset > region.size - region.page_size);
        for (std::size_t j = 0; j < regions.size(); ++j) {
            const Region& other = regions[j];
            if (j != i) {
                FUZZ_CHECK(other.host_address >= region.host_end() || region.host_address >= other.host_end());
                FUZZ_CHECK(other.guest_address >= region.guest_end() || region.guest_address >= other.guest_end());
            }
        }
        FUZZ_CHECK(i == 0 || regions[i - 1].host_address < region.host_address);
    }
}

void check_assigned(const MemoryLayout& layout, const std::vector<Region>& given, const std::vector<Region>& pieces) {
    std::size_t next = 0;
    for (const Region& region : given) {
        std::uint64_t covered = 0;
        while (covered < region.size) {
            FUZZ_CHECK(next < pieces.size());
            const Region& piece = pieces[next++];
            FUZZ_CHECK(piece.size > 0 && piece.size <= region.size - covered);
            FUZZ_CHECK(piece.page_size == region.page_size);
            FUZZ_CHECK(piece.host_address == region.host_address + covered);
            FUZZ_CHECK(piece.source_offset == region.source_offset + covered);
            FUZZ_CHECK(piece.guest_address == layout.guest_address(piece.source_offset));
            FUZZ_CHECK(piece.guest_address + (piece.size - 1) ==
                       layout.guest_address(piece.source_offset + (piece.size - 1)));
            covered += piece.size;
        }
    }
    FUZZ_CHECK(next == pieces.size());
}

MemoryLayout some_layout(FuzzedDataProvider& input) {
    switch (input.ConsumeIntegralInRange<int>(0, 2)) {
        case 0:
            return MemoryLayout::x86_64();
        case 1:
            return MemoryLayout::aarch64();
        default:
            break;
    }
    std::vector<MemoryLayout::Span> spans;
    const int count = input.ConsumeIntegralInRange<int>(0, 6);
    for (int i = 0; i < count; ++i) {
        spans.push_back({number(input), number(input), number(input)});
    }
    return MemoryLayout::custom(spans);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    FuzzedDataProvider input(data, size);
    const SizedSource source(number(input));
    try {
        std::vector<Region> regions;
        const int count = input.ConsumeIntegralInRange<int>(0, 6);
        for (int i = 0; i < count; ++i) {
            Region region{number(input), number(input), number(input), number(input), 4096};
            if (input.ConsumeBool()) {
                region.page_size = number(input);
            }
            regions.push_back(region);
        }
        if (input.ConsumeBool()) {
            const MemoryLayout layout = some_layout(input);
            // What the parser of the hand-over promises of its regions.
            std::erase_if(regions, [](const Region& region) {
                return region.size == 0 || region.size > UINT64_MAX - region.host_address ||
                       region.size > UINT64_MAX - region.source_offset;
            });
            const std::vector<Region> given = regions;
            regions = layout.assign(std::move(regions));
            check_assigned(layout, given, regions);
        }
        const std::vector<Region> checked = vmthaw::check_regions(regions, &source);
        FUZZ_CHECK(checked.size() == regions.size());
        check_promises(checked, source);
        FUZZ_CHECK(vmthaw::check_regions(checked, &source) == checked);
    } catch (const vmthaw::Error& error) {
        FUZZ_CHECK(error.class_name() == "RegionError" || error.class_name() == "VmthawValueError");
        FUZZ_CHECK(error.what()[0] != '\0');
    }
    return 0;
}
