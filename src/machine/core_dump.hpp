#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "machine/guest_memory.hpp"
#include "vcpu/full_registers.hpp"
#include "vcpu/page_walk.hpp"

namespace vmthaw {

enum class CoreAddresses : std::uint8_t {
    guest_virtual,   // as the first vCPU's page tables map them now
    guest_physical,  // one segment for each region of memory
};

struct CoreDumpReport {
    std::uint64_t segments = 0;
    std::uint64_t data_pages = 0;  // of 4096 bytes, not zero
    bool is_complete = true;       // false: the page tables map more pieces than a core file has segments
};

// Writes an ELF core file that gdb opens: all of the guest's memory once, zero pages as holes, and each vCPU as a
// thread. Without paging the two kinds of addresses are the same. `path` must not exist; a failure removes the file.
// Missing pages are waited for. Throws SystemError (ECANCELED), ArgumentError.
[[nodiscard]] CoreDumpReport write_core_dump(const GuestMemory& memory, const std::vector<FullRegisters>& vcpus,
                                             CoreAddresses addresses, const std::string& path,
                                             const std::atomic<bool>& cancelled);

// Guest-physical memory as the page-table walk reads it.
[[nodiscard]] ReadPhysical physical_reader(const GuestMemory& memory);

}  // namespace vmthaw
