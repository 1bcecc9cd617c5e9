#pragma once

#include "kvm/vcpu.hpp"

namespace vmthaw {

// KVM_SET_GUEST_DEBUG, once: 0 or the errno, EINTR too. `request` is a struct kvm_guest_debug. The running thread's, as
// Vcpu::run(); neither throws nor allocates.
[[nodiscard]] int set_guest_debug(const Vcpu& vcpu, const void* request) noexcept;

}  // namespace vmthaw
