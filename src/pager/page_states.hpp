#pragma once

#include <atomic>
#include <cstdint>

#include "base/mapping.hpp"

namespace vmthaw {

enum class PageState : std::uint8_t {
    absent = 0,   // the source's bytes are wanted at the first touch
    filling = 1,  // claimed by one fill, which will install the source's bytes and wake
    present = 2,
    removed = 3,  // zeros for ever after, whatever the source holds
    zeroing = 4,  // removed and claimed by a fill of zeros
    failed = 5,   // the failure policy was applied
};

// One atomic byte per host page, in memory that costs nothing until touched (absent is 0).
// Changes by events happen under the session's gate held exclusively, by fills under the gate shared.
class PageStates {
public:
    explicit PageStates(std::uint64_t pages) : pages_(pages), memory_(Mapping::anonymous(pages)) {}

    [[nodiscard]] std::uint64_t pages() const noexcept { return pages_; }
    [[nodiscard]] PageState get(std::uint64_t page) const noexcept {
        return static_cast<PageState>(cell(page).load(std::memory_order_acquire));
    }
    void set(std::uint64_t page, PageState state) noexcept {
        cell(page).store(static_cast<std::uint8_t>(state), std::memory_order_release);
    }
    bool change(std::uint64_t page, PageState from, PageState to) noexcept {
        auto expected = static_cast<std::uint8_t>(from);
        return cell(page).compare_exchange_strong(expected, static_cast<std::uint8_t>(to), std::memory_order_acq_rel);
    }

private:
    [[nodiscard]] std::atomic_ref<std::uint8_t> cell(std::uint64_t page) const noexcept {
        return std::atomic_ref<std::uint8_t>(reinterpret_cast<std::uint8_t*>(memory_.data())[page]);
    }

    std::uint64_t pages_;
    Mapping memory_;
};

}  // namespace vmthaw
