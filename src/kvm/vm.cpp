#include "kvm/vm.hpp"

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <limits>
#include <string>
#include <utility>

#include "base/error.hpp"
#include "base/page.hpp"
#include "kernel/kvm.hpp"
#include "kvm/kvm_ioctl.hpp"

namespace vmthaw {
namespace {

constexpr std::uint64_t kMostClearedPages = std::uint64_t{1} << 30U;  // a u32, and a multiple of 64
constexpr std::uint32_t kLeastRingEntries = 1024;  // the kernel keeps some in reserve for what is under way

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
    const auto before = slots_->by_number.find(slot.slot);
    if (before != slots_->by_number.end() &&
        (!slot.log_dirty_pages || before->second.guest_address != slot.guest_address)) {
        keep_as_written(before->second);
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
    keep_as_written(found->second);
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
    return read_dirty_log(found->second);
}

std::vector<std::uint64_t> Vm::read_dirty_log(const MemorySlot& slot) const {
    std::vector<std::uint64_t> bits((slot.size_bytes / kPageBytes + 63) / 64);
    kvm_dirty_log request{};
    request.slot = slot.slot;
    request.dirty_bitmap = bits.data();
    kvm_ioctl(fd_.get(), KVM_GET_DIRTY_LOG, &request, "KVM_GET_DIRTY_LOG");
    if (has_manual_dirty_log_) {
        const std::uint64_t pages = slot.size_bytes / kPageBytes;
        for (std::uint64_t first = 0; first < pages; first += kMostClearedPages) {
            kvm_clear_dirty_log clear{};
            clear.slot = slot.slot;
            clear.first_page = first;
            clear.num_pages = static_cast<std::uint32_t>(std::min(kMostClearedPages, pages - first));
            clear.dirty_bitmap = bits.data() + first / 64;
            kvm_ioctl(fd_.get(), KVM_CLEAR_DIRTY_LOG, &clear, "KVM_CLEAR_DIRTY_LOG");
        }
    }
    return bits;
}

// A slot's log goes with it, and with its logging; what a guest that runs writes until then would be in no log.
void Vm::keep_as_written(const MemorySlot& slot) {
    if (slots_->keep_removed && slot.log_dirty_pages) {
        slots_->removed.push_back({slot.guest_address, slot.size_bytes});
    }
}

void Vm::keep_removed_slots() {
    guard_.check("Vm");
    const std::lock_guard lock(slots_->mutex);
    slots_->keep_removed = true;
}

bool Vm::keeps_removed_slots() const {
    guard_.check("Vm");
    const std::lock_guard lock(slots_->mutex);
    return slots_->keep_removed;
}

std::vector<GuestRange> Vm::take_removed_slots() {
    guard_.check("Vm");
    const std::lock_guard lock(slots_->mutex);
    return std::exchange(slots_->removed, {});
}

std::optional<MemorySlot> Vm::find_memory_slot(std::uint32_t slot) const noexcept {
    const std::lock_guard lock(slots_->mutex);
    const auto found = slots_->by_number.find(slot);
    return found == slots_->by_number.end() ? std::nullopt : std::optional(found->second);
}

bool Vm::enable_manual_dirty_log() {
    const int offered = check_extension(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
    if ((offered & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE) == 0) {
        return false;
    }
    kvm_enable_cap request{};
    request.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2;
    request.args[0] = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;
    kvm_ioctl(fd_.get(), KVM_ENABLE_CAP, &request, "KVM_ENABLE_CAP(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2)");
    has_manual_dirty_log_ = true;
    return true;
}

std::uint32_t Vm::most_dirty_ring_entries() const {
    int bytes = check_extension(kKvmCapDirtyLogRingAcqRel);
    if (bytes <= 0) {
        bytes = check_extension(KVM_CAP_DIRTY_LOG_RING);
    }
    return bytes <= 0 ? 0 : static_cast<std::uint32_t>(bytes) / static_cast<std::uint32_t>(sizeof(kvm_dirty_gfn));
}

void Vm::enable_dirty_ring(std::uint32_t entries) {
    const std::uint32_t most = most_dirty_ring_entries();
    if (most == 0) {
        throw SystemError(ENOTSUP, "KVM_ENABLE_CAP(KVM_CAP_DIRTY_LOG_RING)", "this kernel has the dirty log alone");
    }
    if (!std::has_single_bit(entries) || entries < kLeastRingEntries || entries > most) {
        throw ArgumentError("a dirty ring has a power of two of entries from " + std::to_string(kLeastRingEntries) +
                            " to " + std::to_string(most) + ", not " + std::to_string(entries));
    }
    kvm_enable_cap request{};
    request.cap = check_extension(kKvmCapDirtyLogRingAcqRel) > 0 ? std::uint32_t{kKvmCapDirtyLogRingAcqRel}
                                                                 : std::uint32_t{KVM_CAP_DIRTY_LOG_RING};
    request.args[0] = entries * sizeof(kvm_dirty_gfn);
    kvm_ioctl(fd_.get(), KVM_ENABLE_CAP, &request, "KVM_ENABLE_CAP(KVM_CAP_DIRTY_LOG_RING)");
    dirty_ring_entries_ = entries;
}

int Vm::reset_dirty_rings() const noexcept {
    for (;;) {
        const int given_back = ::ioctl(fd_.get(), KVM_RESET_DIRTY_RINGS, 0);
        if (given_back >= 0 || errno != EINTR) {  // a signal ends it, Linux 6.16
            return given_back;
        }
    }
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
    if (dirty_ring_entries_ > 0) {
        vcpu.map_dirty_ring(dirty_ring_entries_);
    }
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
