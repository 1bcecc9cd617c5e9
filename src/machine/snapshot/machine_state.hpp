#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "machine/payload/pattern.hpp"
#include "machine/vcpu_state.hpp"

namespace vmthaw {

// Everything of a machine but its memory, and which memory file belongs to it. A plain value.
struct MachineState {
    std::uint64_t memory_bytes = 0;
    // Of the memory file: its pages that are not zeros, and a fingerprint over them (memory_file.hpp).
    std::uint64_t memory_data_pages = 0;
    std::uint64_t memory_fingerprint = 0;
    bool busy = false;             // the guest was at a command
    std::uint64_t sequence = 0;    // of its last command
    payload::Workload workload{};  // what every page must hold
    std::vector<VcpuState> vcpus;
};

inline constexpr std::uint32_t kStateVersion = 1;
inline constexpr std::size_t kMostStateBytes = std::size_t{64} << 20U;

// The state file. Little endian: a header of 40 bytes (magic, u32 version, u32 architecture, u64 file size, u32 number
// of sections, u32 zero, u64 checksum of the header before it), then sections: u32 kind, u32 index, u64 size, the
// bytes, u64 checksum of the section before it. Kinds: 1 memory, 2 guest, 3 workload, 16 + VcpuPart; the index is the
// vCPU's. Every byte is under a checksum (CRC-64/XZ).
[[nodiscard]] std::vector<std::byte> encode_state(const MachineState& state);

// For any bytes whatever: the state, or Error(SnapshotError) whose `field` names what is wrong.
[[nodiscard]] MachineState decode_state(std::span<const std::byte> bytes);

// CRC-64/XZ (ECMA-182, reflected, all ones before and after): it sees every burst of up to 64 bits.
[[nodiscard]] std::uint64_t crc64(std::span<const std::byte> bytes) noexcept;

}  // namespace vmthaw
