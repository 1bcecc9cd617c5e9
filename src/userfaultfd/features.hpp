#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace vmthaw {

// Feature bits of UFFDIO_API (linux/userfaultfd.h; bits beyond what distribution headers know are in kernel/).
enum class Feature : std::uint64_t {
    pagefault_flag_wp = 1U << 0U,
    event_fork = 1U << 1U,
    event_remap = 1U << 2U,
    event_remove = 1U << 3U,
    missing_hugetlbfs = 1U << 4U,
    missing_shmem = 1U << 5U,
    event_unmap = 1U << 6U,
    sigbus = 1U << 7U,
    thread_id = 1U << 8U,
    minor_hugetlbfs = 1U << 9U,
    minor_shmem = 1U << 10U,
    exact_address = 1U << 11U,
    wp_hugetlbfs_shmem = 1U << 12U,
    wp_unpopulated = 1U << 13U,
    poison = 1U << 14U,
    wp_async = 1U << 15U,
    move = 1U << 16U,
};

// A set of features. A plain value.
class Features {
public:
    constexpr Features() noexcept = default;
    constexpr explicit Features(std::uint64_t bits) noexcept : bits_(bits) {}

    [[nodiscard]] constexpr std::uint64_t bits() const noexcept { return bits_; }
    [[nodiscard]] constexpr bool has(Feature feature) const noexcept {
        return (bits_ & static_cast<std::uint64_t>(feature)) != 0;
    }
    // Names of the set bits in bit order; unknown bits as "bit17".
    [[nodiscard]] std::vector<std::string> names() const;
    constexpr bool operator==(const Features&) const noexcept = default;

private:
    std::uint64_t bits_ = 0;
};

}  // namespace vmthaw
