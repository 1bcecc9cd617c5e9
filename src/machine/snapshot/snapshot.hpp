#pragma once

#include <atomic>
#include <string>

#include "machine/machine.hpp"
#include "machine/snapshot/machine_state.hpp"

namespace vmthaw {

// A snapshot is a directory with memory.bin (Firecracker's layout) and state.bin. state.bin comes last: without it
// there is no snapshot.
inline constexpr const char* kMemoryFileName = "memory.bin";
inline constexpr const char* kStateFileName = "state.bin";

// Saves a machine that does not run. Both files are written under other names, synced and renamed; the directory must
// hold no snapshot yet (SystemError, EEXIST), so that no crash can mix two. Waits for missing pages.
void save_snapshot(Machine& machine, const std::string& directory, const payload::Workload& workload,
                   const std::atomic<bool>& cancelled);

// Reads and checks state.bin. Throws SystemError, Error(SnapshotError).
[[nodiscard]] MachineState load_state(const std::string& directory);

}  // namespace vmthaw
