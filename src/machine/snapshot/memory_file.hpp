#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "machine/guest_memory.hpp"
#include "machine/page_bits.hpp"

namespace vmthaw {

// What a memory file holds: its pages that are not zeros, and a fingerprint of them and their places. Not
// cryptographic: it tells files apart, not forgers.
struct MemoryContent {
    std::uint64_t data_pages = 0;
    std::uint64_t fingerprint = 0;
    bool operator==(const MemoryContent&) const = default;
};

// Writes all of the guest's memory into an open file, from byte `start` on, as Firecracker lays a memory file out, zero
// pages as holes; the file must be as large already. Missing pages are waited for; `cancelled` ends it between two
// pages (SystemError, ECANCELED). `path` is for messages. Throws SystemError.
[[nodiscard]] MemoryContent write_memory(const GuestMemory& memory, int fd, std::uint64_t start,
                                         const std::string& path, const std::atomic<bool>& cancelled);

// The same for a diff as Firecracker writes it: the file holds the pages given, zeros written out; the rest is holes.
// `content` counts and sums up these pages, zeros too.
[[nodiscard]] MemoryContent write_diff(const GuestMemory& memory, const PageBits& pages, int fd,
                                       const std::string& path, const std::atomic<bool>& cancelled);

// Reads a memory file of exactly that size into memory, holes left alone. Throws SystemError, Error(SnapshotError).
void read_memory_file(const GuestMemory& memory, const std::string& path, const std::atomic<bool>& cancelled);

// Reads the pages given, and no others, from a diff of exactly the memory's size: by the list, whatever holes a copy of
// the file has. Throws SystemError, Error(SnapshotError).
void read_diff(const GuestMemory& memory, const PageBits& pages, const std::string& path,
               const std::atomic<bool>& cancelled);

// What a memory file of this memory would hold; reads every page. Throws SystemError (ECANCELED).
[[nodiscard]] MemoryContent content_of_memory(const GuestMemory& memory, const std::atomic<bool>& cancelled);

// The same of a diff with these pages.
[[nodiscard]] MemoryContent content_of_pages(const GuestMemory& memory, const PageBits& pages,
                                             const std::atomic<bool>& cancelled);

}  // namespace vmthaw
