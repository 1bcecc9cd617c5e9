#include "userfaultfd/liveness_checker.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <fstream>
#include <utility>

#include "base/error.hpp"

namespace vmthaw {
namespace {

// The default of vm.mmap_min_addr. No executable, library or stack lies so low, and every address size has it.
constexpr std::uint64_t kLowestUsualAddress = 64 * 1024;

std::uint64_t page_size() noexcept { return static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)); }

// The kernel refuses (EINVAL) every address below it before it looks whether the process lives.
std::uint64_t lowest_address() {
    std::uint64_t lowest = 0;
    std::ifstream("/proc/sys/vm/mmap_min_addr") >> lowest;
    const std::uint64_t size = page_size();
    return (std::max(lowest, kLowestUsualAddress) + size - 1) / size * size;
}

}  // namespace

LivenessChecker LivenessChecker::before_fork() {
    const std::uint64_t size = page_size();
    Mapping dummy = Mapping::map(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0,
                                 "mmap of the liveness checker's dummy page");
    const std::uint64_t address = std::bit_cast<std::uintptr_t>(dummy.data());
    return {std::move(dummy), address, size};
}

LivenessChecker LivenessChecker::for_adopted() { return {Mapping{}, lowest_address(), page_size()}; }

LivenessChecker LivenessChecker::for_adopted(std::uint64_t host_address) {
    if (host_address == 0 || host_address % page_size() != 0) {
        throw ArgumentError("LivenessChecker: " + hex(host_address) +
                            " is not the address of a page; give a page-aligned address in no mapping");
    }
    return {Mapping{}, host_address, page_size()};
}

void LivenessChecker::register_page(const Userfaultfd& userfaultfd) const {
    if (dummy_) {
        userfaultfd.register_range(host_address_, page_size_, kRegisterMissing);
    }
}

Liveness LivenessChecker::check(const Userfaultfd& userfaultfd) const noexcept {
    switch (userfaultfd.zero(host_address_, page_size_, kModeDontWake).status) {
        case FillStatus::gone:
            return Liveness::dead;
        // EAGAIN: a thread of the process waits for its event to be read, so there is a process.
        case FillStatus::done:
        case FillStatus::present:
        case FillStatus::again:
        case FillStatus::unmapped:
        case FillStatus::no_memory:
            return Liveness::alive;
        case FillStatus::bad_source:
        case FillStatus::invalid:
        case FillStatus::failed:
            break;
    }
    return Liveness::unknown;
}

}  // namespace vmthaw
