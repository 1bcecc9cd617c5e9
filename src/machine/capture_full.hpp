#pragma once

#include "kvm/kvm.hpp"
#include "kvm/vcpu.hpp"
#include "machine/vcpu_state.hpp"
#include "vcpu/full_registers.hpp"

namespace vmthaw {

// Drains the vCPU and reads all that it holds; on aarch64 what KVM_GET_REG_LIST names. On the vCPU's own thread, while
// it does not run. Throws SystemError.
[[nodiscard]] FullRegisters capture_full(const Kvm& kvm, Vcpu& vcpu);

// The same from a vCPU's saved state (x86-64; elsewhere SystemError, ENOTSUP). Throws ArgumentError for a state that
// lacks a part.
[[nodiscard]] FullRegisters full_registers_of(const VcpuState& state);

}  // namespace vmthaw
