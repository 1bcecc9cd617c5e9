#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "base/mapping.hpp"
#include "dax/dax_mapper.hpp"
#include "kvm/vm.hpp"

namespace vmthaw {

// One KVM memory slot for each mapping: for comparison with WindowMapper, which is five times as fast and replaces
// atomically; here a guest that touches a mapping while it is replaced sees a hole. Any thread. Destroying it takes its
// slots away.
class SlotMapper final : public DaxMapper {
public:
    // Slots of the numbers `first_slot` to `first_slot + slots - 1`; ENOSPC when all are taken. Throws ArgumentError.
    SlotMapper(std::shared_ptr<Vm> vm, std::uint32_t first_slot, std::uint32_t slots);
    SlotMapper(const SlotMapper&) = delete;
    SlotMapper& operator=(const SlotMapper&) = delete;
    ~SlotMapper() override;

    [[nodiscard]] int map(std::uint64_t guest_address, const Lease& lease, std::uint32_t prot) noexcept override;
    [[nodiscard]] int unmap(std::uint64_t guest_address, std::uint64_t length_bytes) noexcept override;
    [[nodiscard]] int restore(std::uint64_t guest_address, const Lease& lease, std::uint32_t prot) noexcept override;
    [[nodiscard]] std::size_t slots_in_use() const;

private:
    struct Slot {
        std::uint32_t number = 0;
        std::uint64_t length = 0;
        std::shared_ptr<Mapping> mapping;
        std::byte* host = nullptr;
        bool read_only = false;
    };
    void add(std::uint64_t guest_address, Slot slot);
    void cut(std::uint64_t start, std::uint64_t end);

    std::shared_ptr<Vm> vm_;
    mutable std::mutex mutex_;
    std::map<std::uint64_t, Slot> slots_;  // by guest address
    std::vector<std::uint32_t> free_;
};

}  // namespace vmthaw
