#include "kvm/vcpu.hpp"

#include <sys/ioctl.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "base/error.hpp"
#include "kvm/kvm_ioctl.hpp"

namespace vmthaw {
namespace {

void check_register_size(std::uint64_t id, std::size_t given) {
    const std::size_t size = std::size_t{1} << ((id & KVM_REG_SIZE_MASK) >> KVM_REG_SIZE_SHIFT);
    if (given != size) {
        throw ArgumentError("register " + hex(id) + " has " + std::to_string(size) + " bytes, not " +
                            std::to_string(given));
    }
}

}  // namespace

Vcpu::Vcpu(UniqueFd fd, std::size_t mmap_size, std::size_t xsave_bytes, std::shared_ptr<MemorySlots> slots)
    : fd_(std::move(fd)),
      mapping_(Mapping::map(mmap_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0, "mmap(vCPU)")),
      xsave_bytes_(std::max(xsave_bytes, kKvmXsaveBytes)),
      slots_(std::move(slots)) {
    if (mmap_size < sizeof(kvm_run)) {
        throw SystemError(EPROTO, "KVM_GET_VCPU_MMAP_SIZE", "smaller than struct kvm_run");
    }
}

std::vector<MemorySlot> Vcpu::memory_slots() const {
    guard_.check("Vcpu");
    return slots_->list();
}

[[gnu::hot]] RunResult Vcpu::run() noexcept {
    if (std::exchange(has_next_exit_, false)) {
        return {};
    }
    for (;;) {
        // One writer: a plain sum, without the price of a locked instruction.
        std::atomic_ref(runs_).store(runs() + 1, std::memory_order_relaxed);
        const int result = ::ioctl(fd_.get(), KVM_RUN, 0);
        if (result < 0) {
            return {result, errno};
        }
        std::uint32_t reason = 0;
        std::memcpy(&reason, mapping_.data() + kKvmRunExitReason, sizeof reason);
        // Nobody's exit but the ring's: the guest goes on, unless a kick has come, which the next run sees.
        if (reason == kKvmExitDirtyRingFull && dirty_ring_reader_ != nullptr &&
            dirty_ring_reader_->empty_ring(*dirty_ring_)) {
            continue;
        }
        has_shut_down_ = reason == kKvmExitShutdown;
        return {result, 0};
    }
}

int Vcpu::drain() noexcept {
    if (has_next_exit_) {
        return 0;
    }
    set_immediate_exit(true);
    const RunResult outcome = run();
    set_immediate_exit(false);
    has_next_exit_ = outcome.result >= 0;
    return outcome.errno_value == EINTR ? 0 : outcome.errno_value;
}

void Vcpu::get(unsigned long request, void* out, const char* operation) const {
    guard_.check("Vcpu");
    kvm_ioctl(fd_.get(), request, out, operation);
}

void Vcpu::set(unsigned long request, const void* value, const char* operation) const {
    guard_.check("Vcpu");
    kvm_ioctl(fd_.get(), request, const_cast<void*>(value), operation);  // the kernel only reads it
}

int Vcpu::try_get(unsigned long request, void* out) const noexcept {
    if (guard_.inherited()) {
        return ENODEV;
    }
    int result = 0;
    do {
        result = ::ioctl(fd_.get(), request, out);
    } while (result < 0 && errno == EINTR);
    return result < 0 ? errno : 0;
}

std::optional<std::uint64_t> Vcpu::try_one_reg(std::uint64_t id) const noexcept {
    std::uint64_t value = 0;
    kvm_one_reg request{id, reinterpret_cast<std::uint64_t>(&value)};
    return try_get(KVM_GET_ONE_REG, &request) == 0 ? std::optional(value) : std::nullopt;
}

void Vcpu::one_reg(std::uint64_t id, std::span<std::byte> out) const {
    check_register_size(id, out.size());
    kvm_one_reg request{id, reinterpret_cast<std::uint64_t>(out.data())};
    get(KVM_GET_ONE_REG, &request, "KVM_GET_ONE_REG");
}

void Vcpu::set_one_reg(std::uint64_t id, std::span<const std::byte> value) const {
    check_register_size(id, value.size());
    const kvm_one_reg request{id, reinterpret_cast<std::uint64_t>(value.data())};
    const std::string operation = "KVM_SET_ONE_REG(" + hex(id) + ")";
    set(KVM_SET_ONE_REG, &request, operation.c_str());
}

void Vcpu::set_one_reg(std::uint64_t id, std::uint64_t value) const {
    set_one_reg(id, std::as_bytes(std::span(&value, 1)));
}

std::vector<std::uint64_t> Vcpu::reg_list() const {
    guard_.check("Vcpu");
    constexpr std::uint64_t kMostRegisters = 8192;
    std::vector<std::uint64_t> list(1 + kMostRegisters);  // the count, then the numbers
    list.front() = kMostRegisters;
    kvm_ioctl(fd_.get(), kKvmGetRegList, list.data(), "KVM_GET_REG_LIST");
    const std::uint64_t count = std::min(list.front(), kMostRegisters);
    return {list.begin() + 1, list.begin() + 1 + static_cast<std::ptrdiff_t>(count)};
}

kvm_regs Vcpu::regs() const {
    kvm_regs regs{};
    get(KVM_GET_REGS, &regs, "KVM_GET_REGS");
    return regs;
}
void Vcpu::set_regs(const kvm_regs& regs) const { set(KVM_SET_REGS, &regs, "KVM_SET_REGS"); }

kvm_mp_state Vcpu::mp_state() const {
    kvm_mp_state state{};
    get(KVM_GET_MP_STATE, &state, "KVM_GET_MP_STATE");
    return state;
}
void Vcpu::set_mp_state(const kvm_mp_state& state) const { set(KVM_SET_MP_STATE, &state, "KVM_SET_MP_STATE"); }

#if defined(__aarch64__)
void Vcpu::init(const kvm_vcpu_init& target) const { set(KVM_ARM_VCPU_INIT, &target, "KVM_ARM_VCPU_INIT"); }
#endif

}  // namespace vmthaw
