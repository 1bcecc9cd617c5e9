#pragma once

#include "kvm/vcpu.hpp"
#include "vcpu/watchpoint_encoding.hpp"

namespace vmthaw {

// KVM_SET_GUEST_DEBUG, once, for all slots: 0 or the errno. The vCPU's thread's; neither throws nor allocates.
[[nodiscard]] int set_guest_debug(const Vcpu& vcpu, const DebugSetup& setup) noexcept;

}  // namespace vmthaw
