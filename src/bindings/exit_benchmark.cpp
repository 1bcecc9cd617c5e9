// GIL and locking: the guest runs with the GIL released, on the calling thread; between two turns Python's signal
// handlers run.
#include <pybind11/stl.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "bindings/bindings.hpp"
#include "bindings/median.hpp"
#include "devices/addresses.hpp"
#include "kernel/kvm.hpp"
#include "machine/run_loop/run_loop.hpp"
#include "testing/plain_exit_loop.hpp"

namespace vmthaw::bindings {
namespace {

constexpr std::uint64_t kMostExitTurns = 10'000;
constexpr std::uint64_t kMostExitsInATurn = 10'000'000;
// Of a 16550 whose transmitter is empty, by its data sheet: the line status register and the scratch register.
constexpr std::uint16_t kLineStatus = 5;
constexpr std::uint16_t kScratch = 7;
constexpr std::uint8_t kTransmitterEmpty = 0x60;

struct ExitTurn {
    std::uint64_t ns = 0;
    std::uint64_t exits = 0;
};

// Once through the guest's loop, answered by a RunLoop. Making that is not in the time: a run is made once.
ExitTurn take_our_turn(Vcpu& vcpu, const std::shared_ptr<const Dispatcher>& dispatcher) {
    RunLoop loop({&vcpu}, dispatcher, ExitFilter(), nullptr);
    const std::uint64_t start_ns = thread_time_ns();
    loop.run_vcpu(0);
    const std::uint64_t ns = thread_time_ns() - start_ns;
    const auto end = loop.end();
    if (!end || end->kind != RunEndKind::shutdown || end->exit.reason != kKvmExitIo) {
        throw Error("the run loop's turn ended by " + (end ? end->exit.describe() : std::string("nothing")) +
                    ": the guest did not find what it was to read, or is another");
    }
    return {ns, loop.counters(0).exits(kKvmExitIo) + loop.counters(0).exits(kKvmExitMmio)};
}

std::tuple<std::int64_t, std::int64_t, std::uint64_t, std::uint8_t> measure_exit_loops(
    Vcpu& vcpu, const std::shared_ptr<Dispatcher>& dispatcher, std::uint64_t mmio_address, std::uint64_t turns) {
    vcpu.check_process();
    if (turns == 0 || turns > kMostExitTurns) {
        throw ArgumentError("turns must be from 1 to " + std::to_string(kMostExitTurns));
    }
    const testing::PlainDevice device{.kept_port = static_cast<std::uint16_t>(kX86Com1Port + kScratch),
                                      .kept_address = mmio_address + kScratch,
                                      .status_port = static_cast<std::uint16_t>(kX86Com1Port + kLineStatus),
                                      .status_address = mmio_address + kLineStatus,
                                      .status = kTransmitterEmpty,
                                      .end_port = static_cast<std::uint16_t>(kX86KeyboardCommandPort)};
    testing::PlainRun plain;
    const auto take_plain_turn = [&]() -> ExitTurn {
        const std::uint64_t start_ns = thread_time_ns();
        plain = testing::plain_exit_loop(vcpu.fd(), vcpu.run_bytes(), device, kMostExitsInATurn);
        return {thread_time_ns() - start_ns, plain.exits};
    };
    std::vector<std::int64_t> plain_ns;
    // Turn by turn: a processor that is slower for a while slows both turns of a pair.
    std::vector<std::int64_t> more_ns;
    for (std::uint64_t done = 0; done < turns; ++done) {
        ExitTurn ours;
        ExitTurn theirs;
        {
            const py::gil_scoped_release release;
            // Who comes first finds what the other left in the caches: in turns, too.
            if (done % 2 == 0) {
                ours = take_our_turn(vcpu, dispatcher);
                theirs = take_plain_turn();
            } else {
                theirs = take_plain_turn();
                ours = take_our_turn(vcpu, dispatcher);
            }
        }
        if (ours.exits != theirs.exits) {
            throw Error("the run loop saw " + std::to_string(ours.exits) + " exits and the plain loop " +
                        std::to_string(theirs.exits) + ": they did not run the same");
        }
        plain_ns.push_back(static_cast<std::int64_t>(theirs.ns));
        more_ns.push_back(static_cast<std::int64_t>(ours.ns) - plain_ns.back());
        if (PyErr_CheckSignals() != 0) {
            throw py::error_already_set();
        }
    }
    const std::int64_t middle_plain_ns = median_of(plain_ns);
    return {middle_plain_ns + median_of(more_ns), middle_plain_ns, plain.exits, plain.kept};
}

}  // namespace

void register_exit_benchmark(py::module_& module) {
    module.def("_measure_exit_loops", &measure_exit_loops, py::arg("vcpu"), py::arg("dispatcher"),
               py::arg("mmio_address"), py::arg("turns"),
               "Runs a guest on the calling thread, in turns by a RunLoop and by a plain loop (KVM_RUN, switch, "
               "answer): (nanoseconds of the thread's processor time in a turn of the RunLoop; of the plain loop; "
               "exits in a turn; the byte that the "
               "plain loop kept last). The second is a median, the first that and the median of what a turn of the "
               "RunLoop took more than the plain one's beside it. A turn ends when the guest writes a reset to port "
               "0x64, after which "
               "it begins again. Both answer as a serial port at COM1 and at `mmio_address` does whose scratch "
               "register is written and whose line status is read; the dispatcher's buses have one there. For "
               "tests/benchmarks; the GIL is released, Ctrl-C comes between two turns.");
}

}  // namespace vmthaw::bindings
