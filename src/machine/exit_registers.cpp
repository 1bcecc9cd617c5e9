#include "machine/exit_registers.hpp"

#include <variant>

#include "base/error.hpp"

namespace vmthaw {

void keep_registers(const Vcpu& vcpu, Exit& exit) noexcept {
#if defined(__x86_64__)
    auto* error = std::get_if<InternalErrorExit>(&exit.payload);
    if (error == nullptr || error->has_registers) {
        return;
    }
    try {
        const kvm_regs regs = vcpu.regs();
        error->registers = {regs.rax, regs.rbx, regs.rcx, regs.rdx, regs.rsi, regs.rdi,
                            regs.rsp, regs.rbp, regs.r8,  regs.r9,  regs.r10, regs.r11,
                            regs.r12, regs.r13, regs.r14, regs.r15, regs.rip, regs.rflags};
        error->has_registers = true;
    } catch (const Error&) {
        return;
    }
#else
    static_cast<void>(vcpu);
    static_cast<void>(exit);
#endif
}

}  // namespace vmthaw
