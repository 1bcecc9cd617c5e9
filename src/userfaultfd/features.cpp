#include "userfaultfd/features.hpp"

#include <array>
#include <cstddef>

namespace vmthaw {
namespace {

// In bit order, so that the index is the bit.
constexpr std::array<const char*, 17> kFeatureNames{
    "pagefault_flag_wp",
    "event_fork",
    "event_remap",
    "event_remove",
    "missing_hugetlbfs",
    "missing_shmem",
    "event_unmap",
    "sigbus",
    "thread_id",
    "minor_hugetlbfs",
    "minor_shmem",
    "exact_address",
    "wp_hugetlbfs_shmem",
    "wp_unpopulated",
    "poison",
    "wp_async",
    "move",
};
static_assert(static_cast<std::uint64_t>(Feature::move) == std::uint64_t{1} << (kFeatureNames.size() - 1));

}  // namespace

std::vector<std::string> Features::names() const {
    std::vector<std::string> names;
    for (std::size_t bit = 0; bit < 64; ++bit) {
        if ((bits_ >> bit & 1U) == 0) {
            continue;
        }
        names.emplace_back(bit < kFeatureNames.size() ? std::string(kFeatureNames[bit]) : "bit" + std::to_string(bit));
    }
    return names;
}

}  // namespace vmthaw
