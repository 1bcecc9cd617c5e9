// GIL and locking: the whole measurement runs with the GIL released.
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <pybind11/stl.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "bindings/bindings.hpp"
#include "bindings/median.hpp"
#include "kernel/kvm.hpp"
#include "machine/capture_registers.hpp"

namespace vmthaw::bindings {
namespace {

#if defined(__x86_64__)

constexpr int kCapturesInATurn = 10;
constexpr std::uint64_t kMostTurns = 1'000'000;

// What somebody writes who needs these three registers once: no wrapper, no check but for failure.
std::uint64_t capture_by_hand(int fd, volatile std::uint8_t* immediate_exit) {
    *immediate_exit = 1;
    ::ioctl(fd, KVM_RUN, 0);
    *immediate_exit = 0;
    kvm_regs regs;
    kvm_sregs sregs;
    if (::ioctl(fd, KVM_GET_REGS, &regs) != 0 || ::ioctl(fd, KVM_GET_SREGS, &sregs) != 0) {
        return 0;
    }
    return regs.rip + regs.rsp + sregs.cr3;
}

struct Turn {
    std::uint64_t ns = 0;
    std::uint64_t sum = 0;  // of what was found
};

template <typename Capture>
Turn take_turn(const Capture& capture) {
    Turn turn;
    const std::uint64_t start_ns = monotonic_ns();
    for (int i = 0; i < kCapturesInATurn; ++i) {
        turn.sum += capture();
    }
    turn.ns = monotonic_ns() - start_ns;
    return turn;
}

std::pair<std::uint64_t, std::uint64_t> measure(Vcpu& vcpu, std::uint64_t turns) {
    vcpu.check_process();
    if (turns == 0 || turns > kMostTurns) {
        throw ArgumentError("turns must be from 1 to " + std::to_string(kMostTurns));
    }
    auto* const immediate_exit =
        reinterpret_cast<volatile std::uint8_t*>(vcpu.run_bytes().data() + kKvmRunImmediateExit);
    const auto capture_ours = [&]() -> std::uint64_t {
        const auto found = capture_registers(vcpu);
        return found ? found->instruction_pointer + found->stack_pointer + found->page_table_root : 0;
    };
    const auto capture_theirs = [&] { return capture_by_hand(vcpu.fd(), immediate_exit); };
    std::vector<std::uint64_t> ours_ns;
    std::vector<std::uint64_t> by_hand_ns;
    for (std::uint64_t done = 0; done < turns; ++done) {
        // Who comes first finds what the other left in the caches: in turns, too.
        const Turn first = done % 2 == 0 ? take_turn(capture_ours) : take_turn(capture_theirs);
        const Turn second = done % 2 == 0 ? take_turn(capture_theirs) : take_turn(capture_ours);
        if (first.sum != second.sum || first.sum == 0) {
            throw Error("the two captures found different registers, or none: the vCPU must have nothing to finish");
        }
        (done % 2 == 0 ? ours_ns : by_hand_ns).push_back(first.ns);
        (done % 2 == 0 ? by_hand_ns : ours_ns).push_back(second.ns);
    }
    return {median_of(ours_ns), median_of(by_hand_ns)};
}

#else

std::pair<std::uint64_t, std::uint64_t> measure(Vcpu& /*vcpu*/, std::uint64_t /*turns*/) {
    throw SystemError(ENOTSUP, "measuring captures", "the baseline is written for x86-64");
}

#endif

}  // namespace

void register_capture_benchmark(py::module_& module) {
    module.def("measure_captures", &measure, py::arg("vcpu"), py::arg("turns"),
               py::call_guard<py::gil_scoped_release>(),
               "Nanoseconds that ten captures of a stopped vCPU take, medians: (capture_registers, a drain and the two "
               "ioctls by hand), which take turns. For tests/benchmarks.");
}

}  // namespace vmthaw::bindings
