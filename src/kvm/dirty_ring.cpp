#include "kvm/dirty_ring.hpp"

#include <sys/mman.h>

#include "base/page.hpp"

namespace vmthaw {
namespace {

// x86 asm/kvm.h has 64 (KVM_DIRTY_LOG_PAGE_OFFSET); arm64's too.
constexpr std::size_t kRingOffset = 64 * kPageBytes;

}  // namespace

DirtyRing::DirtyRing(int vcpu_fd, std::uint32_t entries)
    : mapping_(Mapping::map(entries * sizeof(kvm_dirty_gfn), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_fd, kRingOffset,
                            "mmap(dirty ring)")),
      entries_(reinterpret_cast<kvm_dirty_gfn*>(mapping_.data()), entries) {}

// What is new lies in one piece, which may go round the end: it begins where the entry before it is not new.
std::uint32_t DirtyRing::gap() const noexcept {
    for (std::uint32_t i = 0; i < size(); ++i) {
        if (is_dirty(next_ + i) && !is_dirty(next_ + i + size() - 1)) {
            return i;
        }
    }
    return is_dirty(next_) ? 0 : size();
}

}  // namespace vmthaw
