#pragma once

#include <csignal>
#include <cstdint>
#include <optional>

#include "kvm/vcpu.hpp"

namespace vmthaw {

// While it lives, a poisoned page (of the hardware, or of UFFDIO_POISON) that the vCPU's guest touches does not end the
// process: KVM sends SIGBUS to the thread that is in KVM_RUN, and this scope's handler keeps the address and makes the
// run end. Other SIGBUS goes to the handler that was there before. One a thread; throws SystemError.
class MemoryErrorScope {
public:
    explicit MemoryErrorScope(Vcpu& vcpu);
    ~MemoryErrorScope();
    MemoryErrorScope(const MemoryErrorScope&) = delete;
    MemoryErrorScope& operator=(const MemoryErrorScope&) = delete;

    // The host address of the page that ended a run since the last call, if one did. The scope's thread alone.
    [[nodiscard]] std::optional<std::uint64_t> take_address() noexcept;
    void forget_address() noexcept { *struck_ = 0; }

private:
    volatile std::sig_atomic_t* struck_;  // the thread's own, found once: a run loop asks at each exit
};

}  // namespace vmthaw
