#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "machine/guest_memory.hpp"

namespace vmthaw {

// What a memory file holds: its pages that are not zeros, and a fingerprint of them and their places. Not
// cryptographic: it tells files apart, not forgers.
struct MemoryContent {
    std::uint64_t data_pages = 0;
    std::uint64_t fingerprint = 0;
    bool operator==(const MemoryContent&) const = default;
};

// Writes all of the guest's memory as Firecracker lays a memory file out, zero pages as holes, and syncs it. `path`
// must not exist. Missing pages are waited for; `cancelled` ends it between two pages (SystemError, ECANCELED), and a
// failure removes the file. Throws SystemError.
[[nodiscard]] MemoryContent write_memory_file(const GuestMemory& memory, const std::string& path,
                                              const std::atomic<bool>& cancelled);

// The same into an open file, from byte `start` on; the file must be as large already. `path` is for messages.
[[nodiscard]] MemoryContent write_memory(const GuestMemory& memory, int fd, std::uint64_t start,
                                         const std::string& path, const std::atomic<bool>& cancelled);

// Reads a memory file of exactly that size into memory, holes left alone. Throws SystemError, Error(SnapshotError).
void read_memory_file(const GuestMemory& memory, const std::string& path, const std::atomic<bool>& cancelled);

// What a memory file of this memory would hold; reads every page. Throws SystemError (ECANCELED).
[[nodiscard]] MemoryContent content_of_memory(const GuestMemory& memory, const std::atomic<bool>& cancelled);

}  // namespace vmthaw
