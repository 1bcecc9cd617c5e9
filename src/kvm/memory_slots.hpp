#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <vector>

namespace vmthaw {

// One run of guest-physical memory, in bytes; every number is a multiple of 4096.
struct MemorySlot {
    std::uint32_t slot = 0;
    std::uint64_t guest_address = 0;
    std::uint64_t host_address = 0;  // of memory that outlives the slot
    std::uint64_t size_bytes = 0;
    bool read_only = false;        // writes exit as MMIO
    bool log_dirty_pages = false;  // see dirty_log
};

struct GuestRange {
    std::uint64_t guest_address = 0;
    std::uint64_t size_bytes = 0;
};

// The slots of one VM by number, which its vCPUs share: an exit without an address is explained by them.
struct MemorySlots {
    std::mutex mutex;
    std::map<std::uint32_t, MemorySlot> by_number;
    bool keep_removed = false;
    std::vector<GuestRange> removed;  // slots that logged dirty pages

    [[nodiscard]] std::vector<MemorySlot> list() {
        const std::lock_guard lock(mutex);
        std::vector<MemorySlot> slots;
        for (const auto& [number, slot] : by_number) {
            slots.push_back(slot);
        }
        return slots;
    }
};

}  // namespace vmthaw
