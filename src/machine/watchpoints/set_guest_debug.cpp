#include "machine/watchpoints/set_guest_debug.hpp"

#include <linux/kvm.h>

#include "kvm/guest_debug.hpp"

namespace vmthaw {

int set_guest_debug(const Vcpu& vcpu, const DebugSetup& setup) noexcept {
#if defined(__aarch64__)
    const KvmGuestDebugAarch64 request = guest_debug_aarch64(setup);
#else
    const KvmGuestDebugX86 request = guest_debug_x86(setup);
#endif
    static_assert(sizeof request == sizeof(kvm_guest_debug));
    return set_guest_debug(vcpu, &request);
}

}  // namespace vmthaw
