#pragma once

#include <csignal>

#include "kvm/vcpu.hpp"

namespace vmthaw {

// The real-time signal that ends a KVM_RUN, SIGRTMIN + 4 unless set. Its handler is installed at the first use, without
// SA_RESTART; somebody else's handler there is a StateError.
void set_kick_signal(int signal);
[[nodiscard]] int kick_signal() noexcept;

// While it lives, the kick is open on the calling thread, and its handler sets `vcpu`'s immediate_exit: so a kick ends
// a KVM_RUN under way and also one that has not begun. May be nested; on one thread. Throws SystemError, StateError.
class KickScope {
public:
    explicit KickScope(Vcpu& vcpu);
    ~KickScope();
    KickScope(const KickScope&) = delete;
    KickScope& operator=(const KickScope&) = delete;

private:
    Vcpu* outer_;
    sigset_t previous_{};
};

// Since this thread's last clear_kick().
[[nodiscard]] bool was_kicked() noexcept;
void clear_kick() noexcept;

}  // namespace vmthaw
