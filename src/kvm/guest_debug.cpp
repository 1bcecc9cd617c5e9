#include "kvm/guest_debug.hpp"

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <cerrno>

namespace vmthaw {

int set_guest_debug(const Vcpu& vcpu, const void* request) noexcept {
    return ::ioctl(vcpu.fd(), KVM_SET_GUEST_DEBUG, request) < 0 ? errno : 0;
}

}  // namespace vmthaw
