#pragma once

#include <cstdint>

#include "kvm/kvm.hpp"
#include "kvm/vcpu.hpp"
#include "machine/guest_memory.hpp"
#include "machine/payload/mailbox.hpp"

namespace vmthaw::payload {

// Writes page tables (2 MiB pages, every guest address up to the end of memory onto itself) and the program into the
// first MiB. Throws SystemError (ENOTSUP) where the program was not built.
void load_payload(const GuestMemory& memory);

// Registers for the first instruction: long mode, CPL 3 with I/O privilege, no interrupts and no descriptor tables, so
// that an exception ends the guest (SHUTDOWN) instead of going astray.
void start_at_payload(const Kvm& kvm, const Vcpu& vcpu, std::uint32_t index);

// Throws ArgumentError when a command's pages are not within the work area of that much memory, or a number is beyond
// its limit: the guest itself does not look.
void check_command(const Command& command, std::uint64_t memory_bytes);

}  // namespace vmthaw::payload
