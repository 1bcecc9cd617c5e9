#include "testing/plain_exit_loop.hpp"

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <string>

#include "base/error.hpp"

namespace vmthaw::testing {

PlainRun plain_exit_loop(int vcpu_fd, std::span<std::byte> run_bytes, const PlainDevice& device,
                         std::uint64_t most_exits) {
    if (run_bytes.size() < sizeof(kvm_run)) {
        throw ArgumentError("run_bytes must be a vCPU's whole mapping");
    }
    auto* const run = reinterpret_cast<kvm_run*>(run_bytes.data());
    run->immediate_exit = 0;  // whoever ran the vCPU before may have been stopped by it
    PlainRun found;
    while (found.exits < most_exits) {
        if (::ioctl(vcpu_fd, KVM_RUN, 0) < 0) {
            if (errno == EINTR) {
                continue;
            }
            check_errno(-1, "KVM_RUN");
        }
        ++found.exits;
        bool is_known = false;
        switch (run->exit_reason) {
            case KVM_EXIT_IO: {
                auto* const data = reinterpret_cast<std::uint8_t*>(run) + run->io.data_offset;
                if (run->io.direction == KVM_EXIT_IO_OUT && run->io.port == device.kept_port) {
                    found.kept = *data;
                    is_known = true;
                } else if (run->io.direction == KVM_EXIT_IO_IN && run->io.port == device.status_port) {
                    *data = device.status;
                    is_known = true;
                } else if (run->io.direction == KVM_EXIT_IO_OUT && run->io.port == device.end_port) {
                    return found;
                }
                break;
            }
            case KVM_EXIT_MMIO:
                if (run->mmio.is_write != 0 && run->mmio.phys_addr == device.kept_address) {
                    found.kept = run->mmio.data[0];
                    is_known = true;
                } else if (run->mmio.is_write == 0 && run->mmio.phys_addr == device.status_address) {
                    run->mmio.data[0] = device.status;
                    is_known = true;
                }
                break;
            default:
                break;
        }
        if (!is_known) {
            throw Error("the plain loop came to an exit of reason " + std::to_string(run->exit_reason) +
                        " that it has no answer to: the guest did not find what it was to read, or is another");
        }
    }
    throw Error("the guest did not end within " + std::to_string(most_exits) + " exits");
}

}  // namespace vmthaw::testing
