#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace vmthaw {

// A bit for each page of a memory, by its place in a memory file; bit 0 of word 0 is the first. A plain value.
using PageBits = std::vector<std::uint64_t>;

[[nodiscard]] inline std::size_t words_for_pages(std::uint64_t pages) noexcept {
    return static_cast<std::size_t>((pages + 63) / 64);
}

inline void set_page(PageBits& bits, std::uint64_t page) noexcept {
    bits[static_cast<std::size_t>(page / 64)] |= std::uint64_t{1} << (page % 64);
}

[[nodiscard]] inline std::uint64_t count_pages(const PageBits& bits) noexcept {
    std::uint64_t count = 0;
    for (const std::uint64_t word : bits) {
        count += static_cast<std::uint64_t>(std::popcount(word));
    }
    return count;
}

// Calls `use(first, count)` for each run of set bits, in order.
template <typename Use>
void for_each_page_run(const PageBits& bits, const Use& use) {
    std::uint64_t first = 0;
    std::uint64_t count = 0;
    for (std::size_t word = 0; word < bits.size(); ++word) {
        for (std::uint64_t rest = bits[word]; rest != 0;) {
            const auto at = static_cast<unsigned>(std::countr_zero(rest));
            const auto length = static_cast<unsigned>(std::countr_one(rest >> at));
            const std::uint64_t page = word * 64 + at;
            if (count > 0 && first + count == page) {
                count += length;
            } else {
                if (count > 0) {
                    use(first, count);
                }
                first = page;
                count = length;
            }
            rest = at + length >= 64 ? 0 : rest >> (at + length) << (at + length);
        }
    }
    if (count > 0) {
        use(first, count);
    }
}

}  // namespace vmthaw
