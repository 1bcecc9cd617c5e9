#include "machine/capture_registers.hpp"

#include <linux/kvm.h>

namespace vmthaw {

std::optional<RegisterSnapshot> capture_registers(Vcpu& vcpu) noexcept {
    if (vcpu.drain() != 0) {
        return std::nullopt;
    }
    return read_registers(vcpu);
}

#if defined(__x86_64__)

// Both structures are filled by the kernel, or not looked at: zeroing them first would cost as much as the copy.
std::optional<RegisterSnapshot> read_registers(const Vcpu& vcpu) noexcept {
    kvm_regs regs;
    kvm_sregs sregs;
    if (vcpu.try_get(KVM_GET_REGS, &regs) != 0 || vcpu.try_get(KVM_GET_SREGS, &sregs) != 0) {
        return std::nullopt;
    }
    return RegisterSnapshot{regs.rip, regs.rsp, sregs.cr3, std::nullopt, std::nullopt};
}

std::optional<std::uint64_t> read_page_table_root(const Vcpu& vcpu) noexcept {
    kvm_sregs sregs;
    return vcpu.try_get(KVM_GET_SREGS, &sregs) == 0 ? std::optional<std::uint64_t>(sregs.cr3) : std::nullopt;
}

std::optional<std::uint64_t> read_tcr_el1(const Vcpu& /*vcpu*/) noexcept { return std::nullopt; }

#else

std::optional<RegisterSnapshot> read_registers(const Vcpu& vcpu) noexcept {
    return aarch64_snapshot([&vcpu](std::uint64_t number) noexcept { return vcpu.try_one_reg(number); });
}

std::optional<std::uint64_t> read_page_table_root(const Vcpu& vcpu) noexcept {
    return vcpu.try_one_reg(kRegisterTtbr1);
}

std::optional<std::uint64_t> read_tcr_el1(const Vcpu& vcpu) noexcept { return vcpu.try_one_reg(kRegisterTcr); }

#endif

}  // namespace vmthaw
