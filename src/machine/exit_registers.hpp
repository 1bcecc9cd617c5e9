#pragma once

#include "kvm/vcpu.hpp"
#include "vcpu/exit.hpp"

namespace vmthaw {

// Gives an internal error the general registers of the vCPU that met it, unless the mapping had them: nobody can say
// afterwards what the guest was at. Every other exit is left alone. An ioctl that fails leaves it without (and is not
// reported: the error itself matters more). The running thread's; x86-64 only, elsewhere nothing happens.
void keep_registers(const Vcpu& vcpu, Exit& exit) noexcept;

}  // namespace vmthaw
