#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kvm/kvm.hpp"
#include "kvm/vcpu.hpp"

namespace vmthaw {

// The parts of an x86-64 vCPU's state, in the order in which they are restored.
enum class VcpuPart : std::uint32_t {
    cpuid,
    mp_state,
    regs,
    sregs,
    fpu,
    xsave,
    xcrs,
    debugregs,
    lapic,  // empty without an interrupt controller in the kernel; before msrs, which hold its deadline
    msrs,
    vcpu_events,
};
inline constexpr std::size_t kVcpuParts = 11;

[[nodiscard]] const char* vcpu_part_name(VcpuPart part) noexcept;
// Whether a part may have that many bytes: the kernel's structure, or entries of it up to a limit.
[[nodiscard]] bool is_vcpu_part_size(VcpuPart part, std::uint64_t size_bytes) noexcept;

// Each part as the kernel's structure has it, in bytes.
struct VcpuState {
    std::array<std::vector<std::byte>, kVcpuParts> parts;

    [[nodiscard]] std::vector<std::byte>& part(VcpuPart which) { return parts[static_cast<std::size_t>(which)]; }
    [[nodiscard]] const std::vector<std::byte>& part(VcpuPart which) const {
        return parts[static_cast<std::size_t>(which)];
    }
    bool operator==(const VcpuState&) const = default;
};

// Drains the vCPU, so that the registers are true, and reads everything. Not while it runs. Throw SystemError.
[[nodiscard]] VcpuState capture_vcpu(const Kvm& kvm, Vcpu& vcpu, bool has_irqchip);
void restore_vcpu(Vcpu& vcpu, const VcpuState& state);

}  // namespace vmthaw
