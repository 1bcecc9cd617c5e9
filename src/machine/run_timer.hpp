#pragma once

#include <cstdint>

#include "kvm/vcpu.hpp"
#include "machine/kick.hpp"

namespace vmthaw {

// While it lives, the calling thread runs `vcpu` for at most `slice_ns`: then the kick comes to this thread (see
// KickScope). On one thread, one at a time. The constructor throws SystemError, StateError.
class RunTimer {
public:
    RunTimer(Vcpu& vcpu, std::uint64_t slice_ns);
    ~RunTimer();
    RunTimer(const RunTimer&) = delete;
    RunTimer& operator=(const RunTimer&) = delete;

    [[nodiscard]] static bool has_fired() noexcept { return was_kicked(); }

private:
    KickScope scope_;
    int timer_ = 0;  // the kernel's number: the C library's type hides it
};

}  // namespace vmthaw
