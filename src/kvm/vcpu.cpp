#include "kvm/vcpu.hpp"

#include <sys/ioctl.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cerrno>

#include "base/error.hpp"
#include "kernel/kvm.hpp"
#include "kvm/kvm_ioctl.hpp"

namespace vmthaw {
namespace {

std::atomic_ref<std::uint8_t> immediate_exit_of(const Mapping& mapping) noexcept {
    // The kernel reads this byte on entry; other threads and signal handlers write it.
    return std::atomic_ref(*reinterpret_cast<std::uint8_t*>(mapping.data() + kKvmRunImmediateExit));
}

}  // namespace

Vcpu::Vcpu(UniqueFd fd, std::size_t mmap_size, std::size_t xsave_bytes)
    : fd_(std::move(fd)),
      mapping_(Mapping::map(mmap_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0, "mmap(vCPU)")),
      xsave_bytes_(std::max(xsave_bytes, kKvmXsaveBytes)) {
    if (mmap_size < sizeof(kvm_run)) {
        throw SystemError(EPROTO, "KVM_GET_VCPU_MMAP_SIZE", "smaller than struct kvm_run");
    }
}

RunResult Vcpu::run() noexcept {
    ++runs_;
    const int result = ::ioctl(fd_.get(), KVM_RUN, 0);
    return {result, result < 0 ? errno : 0};
}

void Vcpu::set_immediate_exit(bool value) noexcept {
    immediate_exit_of(mapping_).store(value ? 1 : 0, std::memory_order_release);
}

bool Vcpu::immediate_exit() const noexcept { return immediate_exit_of(mapping_).load(std::memory_order_acquire) != 0; }

int Vcpu::drain() noexcept {
    set_immediate_exit(true);
    const RunResult outcome = run();
    set_immediate_exit(false);
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

}  // namespace vmthaw
