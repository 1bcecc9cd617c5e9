#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "kvm/vm.hpp"

namespace vmthaw {

// `slot` cut at `pages` (ascending guest addresses, each inside): those read-only, the rest as it was. Without numbers
// but for the first piece, which keeps the slot's. Where the slot logs dirty pages, pieces that the guest can write do.
// Pure.
[[nodiscard]] std::vector<MemorySlot> cut_memory_slot(const MemorySlot& slot, const std::vector<std::uint64_t>& pages);

// Makes pages of a VM read-only for the guest, by memory slots of their own: a store to one exits as MMIO, with its
// data, before it reaches memory. The VM outlives it. No vCPU may run during a call (a slot is away for a moment), one
// thread at a time. A slot that logs dirty pages goes on logging, but loses its log: it must be one of a VM that keeps
// removed slots, which all count as written. Throws ArgumentError for a page without memory, and for one in a slot that
// is read-only, or whose log would be lost for good; SystemError, after which the slots are as before.
class ReadOnlyPages {
public:
    explicit ReadOnlyPages(Vm& vm) : vm_(vm) {}

    void add(std::uint64_t guest_page);     // counted: as many calls of remove() free it
    void remove(std::uint64_t guest_page);  // nothing when it is not there

private:
    struct Cut {
        MemorySlot whole;
        std::map<std::uint64_t, unsigned> pages;  // by guest address: how often
        std::vector<std::uint32_t> pieces;        // the slots that are there now
    };

    void lay(Cut& cut);
    void replace(Cut& cut, const std::vector<MemorySlot>& pieces);
    [[nodiscard]] std::uint32_t new_number();

    Vm& vm_;
    std::uint32_t next_number_ = 0;
    std::map<std::uint32_t, Cut> cuts_;  // by the whole slot's number
};

}  // namespace vmthaw
