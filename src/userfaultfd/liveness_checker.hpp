#pragma once

#include <cstdint>

#include "base/mapping.hpp"
#include "userfaultfd/userfaultfd.hpp"

namespace vmthaw {

enum class Liveness : std::uint8_t {
    alive,
    dead,     // exited, or replaced its memory by execve(2): nobody will fault on this descriptor again
    unknown,  // the descriptor is closed, or the kernel said something unforeseen
};

// Tells whether the memory behind a userfaultfd still exists, which the descriptor itself never reports: a ZEROPAGE
// answers ESRCH when it does not. Two kinds, and neither touches a page that anybody uses:
//  - before_fork(): owns a dummy page. Make it before the fork, so that the children inherit the page at the same
//    address, and register_page() it with every child's descriptor.
//  - for_adopted(): for descriptors of strangers. Aims at an address in no mapping (ENOENT: alive).
// Immutable, so safe from several threads. check() never throws; making one throws SystemError.
class LivenessChecker {
public:
    [[nodiscard]] static LivenessChecker before_fork();
    [[nodiscard]] static LivenessChecker for_adopted();
    // `host_address` must be page-aligned, not below vm.mmap_min_addr, and in no registered range. Throws
    // ArgumentError.
    [[nodiscard]] static LivenessChecker for_adopted(std::uint64_t host_address);

    // Registers the dummy page in the process behind `userfaultfd`. A no-op for for_adopted(). Throws SystemError.
    void register_page(const Userfaultfd& userfaultfd) const;
    [[nodiscard]] Liveness check(const Userfaultfd& userfaultfd) const noexcept;
    [[nodiscard]] std::uint64_t host_address() const noexcept { return host_address_; }

private:
    LivenessChecker(Mapping dummy, std::uint64_t host_address, std::uint64_t page_size) noexcept
        : dummy_(std::move(dummy)), host_address_(host_address), page_size_(page_size) {}

    Mapping dummy_;
    std::uint64_t host_address_;
    std::uint64_t page_size_;
};

}  // namespace vmthaw
