#pragma once

#include <csignal>
#include <cstdint>
#include <ctime>

#include "kvm/vcpu.hpp"

namespace vmthaw {

// The real-time signal that ends a KVM_RUN, SIGRTMIN + 4 unless set. Its handler is installed at the first use, without
// SA_RESTART; somebody else's handler there is a StateError.
void set_kick_signal(int signal);
[[nodiscard]] int kick_signal() noexcept;

// While it lives, the calling thread runs `vcpu` for at most `slice_ns`: then the kick comes to this thread, whose
// handler sets the vCPU's immediate_exit, so that it ends a KVM_RUN under way and also one that has not begun.
// On one thread, one at a time. The constructor throws SystemError, StateError.
class RunTimer {
public:
    RunTimer(Vcpu& vcpu, std::uint64_t slice_ns);
    ~RunTimer();
    RunTimer(const RunTimer&) = delete;
    RunTimer& operator=(const RunTimer&) = delete;

    [[nodiscard]] static bool has_fired() noexcept;

private:
    int timer_ = 0;  // the kernel's number: the C library's type hides it
    sigset_t previous_{};
};

}  // namespace vmthaw
