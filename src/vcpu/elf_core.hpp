#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "vcpu/full_registers.hpp"

namespace vmthaw {

// One run of memory in an ELF core file. All in bytes; offsets are within the memory part of the file.
struct CoreSegment {
    std::uint64_t address = 0;  // what a debugger calls it
    std::uint64_t guest_physical = 0;
    std::uint64_t size_bytes = 0;
    std::uint64_t memory_offset = 0;
    bool writable = true;
    bool executable = true;
};

inline constexpr std::size_t kMostCoreSegments = 65'000;  // one program header is the notes', and 65,535 means more

// Everything of an ELF core file but the memory, which follows at once: header, program headers, and for each vCPU a
// note NT_PRSTATUS and one NT_FPREGSET, as Linux writes them for a thread (the thread's number is the vCPU's plus 1);
// and NT_X86_XSTATE where XCR0 allows more than SSE.
// Ends at a multiple of 4096. Throws ArgumentError (no vCPU, several architectures, too many segments, a register that
// is missing).
[[nodiscard]] std::vector<std::byte> encode_core_header(const std::vector<FullRegisters>& vcpus,
                                                        const std::vector<CoreSegment>& segments);

}  // namespace vmthaw
