#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "machine/page_bits.hpp"
#include "machine/payload/pattern.hpp"
#include "machine/snapshot/snapshot_base.hpp"
#include "machine/vcpu_state.hpp"
#include "machine/vm_state.hpp"

namespace vmthaw {

// Everything of a machine but its memory, and which memory file belongs to it. A plain value.
struct MachineState {
    SnapshotIdentity identity;  // the checksum is not in the file: decode_state() and encode_state() give it
    // Diffs lie over `depth` other snapshots; 0: a full snapshot, and what follows is empty.
    std::uint64_t depth = 0;
    SnapshotIdentity base;
    std::string base_path;   // relative to the diff's own directory, where that is possible; a hint
    PageBits changed_pages;  // those that the diff's memory file has
    std::uint64_t memory_bytes = 0;
    // Of the memory file: a full one's pages that are not zeros, a diff's changed pages, and a fingerprint over them
    // (memory_file.hpp).
    std::uint64_t memory_data_pages = 0;
    std::uint64_t memory_fingerprint = 0;
    bool has_payload = false;      // the guest runs it
    bool busy = false;             // the guest was at a command
    std::uint64_t sequence = 0;    // of its last command
    payload::Workload workload{};  // what every page must hold
    VmState vm;
    std::vector<VcpuState> vcpus;

    [[nodiscard]] bool is_diff() const noexcept { return depth > 0; }
};

inline constexpr std::uint32_t kStateVersion = 2;
inline constexpr std::size_t kMostStateBytes = std::size_t{64} << 20U;
inline constexpr std::uint32_t kMostStateVcpus = 255;
inline constexpr std::uint64_t kMostDepth = 1024;  // each diff of a chain is a file that a restore keeps open
inline constexpr std::size_t kMostBasePath = 4096;

// The state file. Little endian: a header of 40 bytes (magic, u32 version, u32 architecture, u64 file size, u32 number
// of sections, u32 zero, u64 checksum of the header before it), then sections: u32 kind, u32 index, u64 size, the
// bytes, u64 checksum of the section before it. Kinds: 1 memory, 2 guest, 3 workload, 4 identity; of a diff also 5 base
// (depth, id, checksum, path) and 6 changed pages (a bit for each page); 16 + VmPart; 32 + VcpuPart, with the vCPU's
// index. Every byte is under a checksum (CRC-64/XZ).
struct EncodedState {
    std::vector<std::byte> bytes;
    std::uint64_t checksum = 0;  // the identity's
};
[[nodiscard]] EncodedState encode_state(const MachineState& state);

// For any bytes whatever: the state, or Error(SnapshotError) whose `field` names what is wrong.
[[nodiscard]] MachineState decode_state(std::span<const std::byte> bytes);

}  // namespace vmthaw
