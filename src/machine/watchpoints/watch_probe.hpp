#pragma once

#include <cstdint>

#include "kvm/kvm.hpp"

namespace vmthaw {

// What was seen to work, by function: a KVM may accept a request and never fire (kvm_pvm's data watchpoints).
struct WatchAbility {
    unsigned data_slots = 0;  // bitmap: a store to the slot's four bytes came out, and was named
    bool execute = false;     // an instruction breakpoint
    bool single_step = false;
    bool read_only_page = false;  // a store to a read-only memory slot came out with its data
    bool operator==(const WatchAbility&) const = default;
};

// Runs tiny guests, each in a VM of its own, at CPL 0 (x86-64, real mode) or EL1 (aarch64). Takes the calling thread's
// kick for as long; some milliseconds. Throws SystemError where there is no KVM to ask.
[[nodiscard]] WatchAbility probe_watchpoints(const Kvm& kvm);

}  // namespace vmthaw
