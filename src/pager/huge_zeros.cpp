#include "pager/huge_zeros.hpp"

#include <sys/mman.h>

#include "base/error.hpp"
#include "base/mapping.hpp"

namespace vmthaw {

const std::byte* huge_zeros() noexcept {
    constexpr std::size_t kHugePage = 2U << 20U;
    static const Mapping zeros = [] {
        try {
            return Mapping::map(kHugePage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0,
                                "mmap(zeros)");
        } catch (const Error&) {
            return Mapping();
        }
    }();
    return zeros.data();
}

}  // namespace vmthaw
