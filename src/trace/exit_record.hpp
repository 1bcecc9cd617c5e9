#pragma once

#include <cstdint>
#include <type_traits>

namespace vmthaw {

// Bits of ExitRecord::flags.
inline constexpr std::uint8_t kExitRecordWrite = 1;      // of a port or MMIO access
inline constexpr std::uint8_t kExitRecordHandler = 2;    // a registered handler was asked
inline constexpr std::uint8_t kExitRecordRegisters = 4;  // the registers below are true

// One exit of a vCPU: the columns of a trace's table of exits, without padding, so that it can be copied as bytes and
// read by numpy. Times are CLOCK_MONOTONIC, the clock of FaultRecord.
struct ExitRecord {
    std::uint64_t t_enter_ns = 0;    // KVM_RUN was called: until t_exit_ns the guest had the processor
    std::uint64_t t_exit_ns = 0;     // it came back
    std::uint64_t t_decided_ns = 0;  // devices and handlers had answered
    std::uint64_t address = 0;       // a port, or a guest physical address
    std::uint64_t instruction_pointer = 0, stack_pointer = 0, page_table_root = 0;
    std::uint32_t length = 0;  // bytes, all elements of a string access together
    std::uint32_t reason = 0;  // KVM_EXIT_*; kExitRecordFailed when KVM_RUN failed
    std::int32_t error = 0;    // its errno then
    std::uint16_t vcpu = 0;
    std::uint8_t action = 0;  // ExitActionKind
    std::uint8_t flags = 0;
};

inline constexpr std::uint32_t kExitRecordFailed = 0xFFFF'FFFF;

static_assert(sizeof(ExitRecord) == 72 && std::is_trivially_copyable_v<ExitRecord>);
static_assert(std::has_unique_object_representations_v<ExitRecord>, "padding would leak into trace files");

}  // namespace vmthaw
