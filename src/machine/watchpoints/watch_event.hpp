#pragma once

#include <cstdint>

namespace vmthaw {

enum class WatchEventKind : std::uint8_t { write, execute, step };

// One firing. Plain bytes, for a ring.
struct WatchEvent {
    std::uint64_t t_ns = 0;                 // the clock of all records, when the host saw it
    std::uint64_t guest_address = 0;        // the slot's; 0 of a step
    std::uint64_t instruction_pointer = 0;  // behind the store; of `execute` at the instruction; behind the step
    std::uint32_t before = 0;               // the four bytes, little-endian
    std::uint32_t after = 0;
    std::uint16_t vcpu = 0;
    std::uint8_t slot = 0;
    WatchEventKind kind = WatchEventKind::write;
    std::uint8_t backend = 0;  // WatchBackend
    bool has_bytes = false;    // the host could read them
    bool has_instruction_pointer = false;
    bool has_latched = false;  // this was the one that set the hit
};

}  // namespace vmthaw
