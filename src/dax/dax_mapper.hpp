#pragma once

#include <cstdint>

#include "filesystem/lease.hpp"

namespace vmthaw {

// Puts files at guest addresses. A session calls it for ranges it has checked (multiples of the granule, within the
// window), never for two overlapping ranges at once; answers are 0 or a positive errno.
class DaxMapper {
public:
    DaxMapper() = default;
    DaxMapper(const DaxMapper&) = delete;
    DaxMapper& operator=(const DaxMapper&) = delete;
    virtual ~DaxMapper() = default;

    // The lease's bytes, all of them, at `guest_address`, in place of whatever is mapped there; usable when it returns.
    // If it fails, what was there stays, or comes back by restore(). `prot`: kDaxRead, kDaxWrite.
    [[nodiscard]] virtual int map(std::uint64_t guest_address, const Lease& lease, std::uint32_t prot) noexcept = 0;
    // A hole from then on, also when it fails half way. The range lies within one mapping.
    [[nodiscard]] virtual int unmap(std::uint64_t guest_address, std::uint64_t length_bytes) noexcept = 0;
    // Called after a failed map() for each mapping (or piece of one) of its range: has to be there again.
    [[nodiscard]] virtual int restore(std::uint64_t guest_address, const Lease& lease, std::uint32_t prot) noexcept {
        static_cast<void>(guest_address);
        static_cast<void>(lease);
        static_cast<void>(prot);
        return 0;
    }
    // A Python mapper: nobody may hold a lock while it is called.
    [[nodiscard]] virtual bool takes_gil() const noexcept { return false; }
};

}  // namespace vmthaw
