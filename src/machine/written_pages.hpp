#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "machine/page_bits.hpp"

namespace vmthaw {

// The pages that the host wrote into a guest's memory. Any thread may mark, after it has written: a page that is taken
// between the two is taken again the next time.
class WrittenPages {
public:
    explicit WrittenPages(std::uint64_t pages)
        : words_(words_for_pages(pages)), bits_(std::make_unique<std::atomic<std::uint64_t>[]>(words_)) {}

    void mark(std::uint64_t first, std::uint64_t count) noexcept {
        for (std::uint64_t page = first; page < first + count; ++page) {
            bits_[static_cast<std::size_t>(page / 64)].fetch_or(std::uint64_t{1} << (page % 64));
        }
    }
    // Adds what is marked to `bits`, and unmarks it.
    void take_into(PageBits& bits) noexcept {
        for (std::size_t word = 0; word < words_; ++word) {
            if (bits_[word].load(std::memory_order_relaxed) != 0) {
                bits[word] |= bits_[word].exchange(0);
            }
        }
    }
    void put_back(const PageBits& bits) noexcept {
        for (std::size_t word = 0; word < words_; ++word) {
            if (bits[word] != 0) {
                bits_[word].fetch_or(bits[word]);
            }
        }
    }

private:
    std::size_t words_;
    std::unique_ptr<std::atomic<std::uint64_t>[]> bits_;
};

}  // namespace vmthaw
