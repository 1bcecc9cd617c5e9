#include "kvm/vm.hpp"

#include <linux/kvm.h>

#include <cerrno>
#include <limits>
#include <string>

#include "base/error.hpp"
#include "kvm/kvm_ioctl.hpp"

namespace vmthaw {
namespace {

constexpr std::uint64_t kPageBytes = 4096;

[[noreturn]] void refuse(const MemorySlot& slot, const std::string& why) {
    throw ArgumentError("memory slot " + std::to_string(slot.slot) + " (guest " + hex(slot.guest_address) + ", " +
                        std::to_string(slot.size_bytes) + " bytes): " + why);
}

void check_numbers(const MemorySlot& slot) {
    constexpr std::uint64_t kMost = std::numeric_limits<std::uint64_t>::max();
    if (slot.size_bytes == 0 || slot.size_bytes % kPageBytes != 0) {
        refuse(slot, "size must be a multiple of 4096 and not 0");
    }
    if (slot.guest_address % kPageBytes != 0) {
        refuse(slot, "guest_address is not a multiple of 4096");
    }
    if (slot.host_address == 0 || slot.host_address % kPageBytes != 0) {
        refuse(slot, "host_address is not a multiple of 4096, or 0");
    }
    if (slot.size_bytes > kMost - slot.guest_address) {
        refuse(slot, "guest_address + size overflows");
    }
    if (slot.size_bytes > kMost - slot.host_address) {
        refuse(slot, "host_address + size overflows");
    }
}

bool overlap(const MemorySlot& one, const MemorySlot& other) noexcept {
    return one.guest_address < other.guest_address + other.size_bytes &&
           other.guest_address < one.guest_address + one.size_bytes;
}

void set_region(int fd, const MemorySlot& slot, std::uint64_t size) {
    kvm_userspace_memory_region region{};
    region.slot = slot.slot;
    region.flags =
        (slot.read_only ? unsigned{KVM_MEM_READONLY} : 0U) | (slot.log_dirty_pages ? KVM_MEM_LOG_DIRTY_PAGES : 0U);
    region.guest_phys_addr = slot.guest_address;
    region.memory_size = size;
    region.userspace_addr = slot.host_address;
    kvm_ioctl(fd, KVM_SET_USER_MEMORY_REGION, &region, "KVM_SET_USER_MEMORY_REGION");
}

}  // namespace

int Vm::check_extension(int capability) const {
    guard_.check("Vm");
    return kvm_ioctl(fd_.get(), KVM_CHECK_EXTENSION, static_cast<unsigned long>(capability), "KVM_CHECK_EXTENSION");
}

void Vm::set_memory_slot(const MemorySlot& slot) {
    guard_.check("Vm");
    check_numbers(slot);
    const std::lock_guard lock(slots_->mutex);
    for (const auto& [number, other] : slots_->by_number) {
        if (number != slot.slot && overlap(slot, other)) {
            refuse(slot, "overlaps slot " + std::to_string(number));
        }
    }
    set_region(fd_.get(), slot, slot.size_bytes);
    slots_->by_number[slot.slot] = slot;
}

void Vm::remove_memory_slot(std::uint32_t slot) {
    guard_.check("Vm");
    const std::lock_guard lock(slots_->mutex);
    const auto found = slots_->by_number.find(slot);
    if (found == slots_->by_number.end()) {
        throw ArgumentError("there is no memory slot " + std::to_string(slot));
    }
    set_region(fd_.get(), found->second, 0);
    slots_->by_number.erase(found);
}

std::vector<MemorySlot> Vm::memory_slots() const {
    guard_.check("Vm");
    return slots_->list();
}

std::vector<std::uint64_t> Vm::dirty_log(std::uint32_t slot) const {
    guard_.check("Vm");
    const std::lock_guard lock(slots_->mutex);
    const auto found = slots_->by_number.find(slot);
    if (found == slots_->by_number.end() || !found->second.log_dirty_pages) {
        throw ArgumentError("memory slot " + std::to_string(slot) + " does not log dirty pages");
    }
    std::vector<std::uint64_t> bits((found->second.size_bytes / kPageBytes + 63) / 64);
    kvm_dirty_log request{};
    request.slot = slot;
    request.dirty_bitmap = bits.data();
    kvm_ioctl(fd_.get(), KVM_GET_DIRTY_LOG, &request, "KVM_GET_DIRTY_LOG");
    return bits;
}

void Vm::create_irqchip() const {
    guard_.check("Vm");
    kvm_ioctl(fd_.get(), KVM_CREATE_IRQCHIP, 0UL, "KVM_CREATE_IRQCHIP");
}

Vcpu Vm::create_vcpu(std::uint32_t index) const {
    guard_.check("Vm");
#if defined(__x86_64__)
    const auto xsave_bytes = static_cast<std::size_t>(check_extension(KVM_CAP_XSAVE2));
#else
    constexpr std::size_t xsave_bytes = 0;
#endif
    Vcpu vcpu(UniqueFd(kvm_ioctl(fd_.get(), KVM_CREATE_VCPU, static_cast<unsigned long>(index), "KVM_CREATE_VCPU")),
              vcpu_mmap_size_, xsave_bytes, slots_);
#if defined(__aarch64__)
    vcpu.init(preferred_target());
#endif
    return vcpu;
}

#if defined(__aarch64__)
kvm_vcpu_init Vm::preferred_target() const {
    guard_.check("Vm");
    kvm_vcpu_init target{};
    kvm_ioctl(fd_.get(), KVM_ARM_PREFERRED_TARGET, &target, "KVM_ARM_PREFERRED_TARGET");
    target.features[0] |= 1U << unsigned{KVM_ARM_VCPU_PSCI_0_2};
    return target;
}
#endif

}  // namespace vmthaw
