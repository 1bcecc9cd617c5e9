#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace vmthaw::testing {

// What a guest is answered, and how it ends: a port or an address that keeps the byte written to it and one that always
// reads the same, and a port whose write is the end. Of a guest that is trusted (this is a benchmark's baseline).
struct PlainDevice {
    std::uint16_t kept_port = 0;
    std::uint64_t kept_address = 0;
    std::uint16_t status_port = 0;
    std::uint64_t status_address = 0;
    std::uint8_t status = 0;
    std::uint16_t end_port = 0;
};

struct PlainRun {
    std::uint64_t exits = 0;  // the last one too
    std::uint8_t kept = 0;    // the byte written last
};

// The exit loop of every textbook, as the baseline of benchmarks: KVM_RUN, switch, answer, and nothing else. On the
// calling thread, until the guest writes to the end port; the next KVM_RUN completes that. Throws SystemError, and
// Error for an exit of another kind, or when there are more than `most_exits`.
[[nodiscard]] PlainRun plain_exit_loop(int vcpu_fd, std::span<std::byte> run_bytes, const PlainDevice& device,
                                       std::uint64_t most_exits);

}  // namespace vmthaw::testing
