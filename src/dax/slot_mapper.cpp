#include "dax/slot_mapper.hpp"

#include <sys/mman.h>

#include <cerrno>
#include <exception>
#include <iterator>
#include <new>
#include <string>
#include <utility>

#include "base/error.hpp"
#include "filesystem/dax_backend.hpp"

namespace vmthaw {
namespace {

// Linux's KVM_USER_MEM_SLOTS on x86-64: 32767 less three of its own.
constexpr std::uint32_t kMostSlots = 32764;

template <typename Work>
int errno_of(Work work) noexcept {
    try {
        work();
        return 0;
    } catch (const SystemError& error) {
        return error.errno_value();
    } catch (const ArgumentError&) {
        return EINVAL;
    } catch (const std::bad_alloc&) {
        return ENOMEM;
    } catch (const std::exception&) {
        return EIO;
    }
}

}  // namespace

SlotMapper::SlotMapper(std::shared_ptr<Vm> vm, std::uint32_t first_slot, std::uint32_t slots) : vm_(std::move(vm)) {
    if (!vm_ || slots == 0 || first_slot >= kMostSlots || slots > kMostSlots - first_slot) {
        throw ArgumentError("a SlotMapper needs a VM and at least one slot, all below " + std::to_string(kMostSlots));
    }
    for (std::uint32_t number = first_slot + slots; number > first_slot; --number) {
        free_.push_back(number - 1);
    }
}

SlotMapper::~SlotMapper() {
    Vm& vm = *vm_;
    for (const auto& [guest_address, slot] : slots_) {
        static_cast<void>(errno_of([&vm, number = slot.number] { vm.remove_memory_slot(number); }));
    }
}

void SlotMapper::add(std::uint64_t guest_address, Slot slot) {
    if (free_.empty()) {
        throw SystemError(ENOSPC, "KVM memory slots of a DAX window");
    }
    slot.number = free_.back();
    const auto [place, fresh] = slots_.try_emplace(guest_address, slot);
    try {
        vm_->set_memory_slot({slot.number, guest_address, reinterpret_cast<std::uint64_t>(slot.host), slot.length,
                              slot.read_only, false});
    } catch (...) {
        slots_.erase(place);
        throw;
    }
    static_cast<void>(fresh);
    free_.pop_back();
}

// A hole from `start` to `end`; what slots have on either side stays mapped, in slots of their own.
void SlotMapper::cut(std::uint64_t start, std::uint64_t end) {
    auto at = slots_.upper_bound(start);
    if (at != slots_.begin() && std::prev(at)->first + std::prev(at)->second.length > start) {
        --at;
    }
    while (at != slots_.end() && at->first < end) {
        const std::uint64_t from = at->first;
        const Slot slot = at->second;
        vm_->remove_memory_slot(slot.number);
        free_.push_back(slot.number);
        slots_.erase(at);
        if (from < start) {
            Slot left = slot;
            left.length = start - from;
            add(from, left);
        }
        if (from + slot.length > end) {
            Slot right = slot;
            right.host += end - from;
            right.length = from + slot.length - end;
            add(end, right);
        }
        at = slots_.lower_bound(start);  // beyond what lies to the left
    }
}

int SlotMapper::map(std::uint64_t guest_address, const Lease& lease, std::uint32_t prot) noexcept {
    return errno_of([&] {
        const bool writes = (prot & kDaxWrite) != 0;
        // First what may well fail, while the old slots still stand.
        const auto mapping =
            std::make_shared<Mapping>(Mapping::map(lease.length_bytes, PROT_READ | (writes ? PROT_WRITE : 0),
                                                   MAP_SHARED, lease.fd, lease.offset_bytes, "mmap(DAX slot)"));
        const std::lock_guard lock(mutex_);
        cut(guest_address, guest_address + lease.length_bytes);
        add(guest_address, {0, lease.length_bytes, mapping, mapping->data(), !writes});
    });
}

int SlotMapper::restore(std::uint64_t guest_address, const Lease& lease, std::uint32_t prot) noexcept {
    return map(guest_address, lease, prot);
}

int SlotMapper::unmap(std::uint64_t guest_address, std::uint64_t length_bytes) noexcept {
    return errno_of([&] {
        const std::lock_guard lock(mutex_);
        cut(guest_address, guest_address + length_bytes);
    });
}

std::size_t SlotMapper::slots_in_use() const {
    const std::lock_guard lock(mutex_);
    return slots_.size();
}

}  // namespace vmthaw
