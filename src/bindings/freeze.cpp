// GIL and locking: freeze, thaw and every run release the GIL; a kick takes a lock of the core, without it. Waits are
// cut into slices, between which Python's signal handlers run.
#include "machine/freeze/freeze_coordinator.hpp"

#include <pybind11/stl.h>

#include <cerrno>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "bindings/bindings.hpp"
#include "bindings/exit.hpp"
#include "bindings/freeze.hpp"
#include "bindings/wait.hpp"
#include "machine/run_timer.hpp"

namespace vmthaw::bindings {
namespace {

// The coordinator and what it must not outlive. Only Python objects own it, so it goes with the GIL held.
struct Coordinator {
    std::vector<py::object> owners;
    std::vector<Vcpu*> vcpus;
    std::unique_ptr<FreezeCoordinator> core;
};

// A vCPU's thread, from attach to close; belongs to the thread that made it.
class VcpuThread {
public:
    VcpuThread(std::shared_ptr<Coordinator> coordinator, std::size_t index)
        : coordinator_(std::move(coordinator)), index_(index) {
        attachment_ = std::make_unique<FreezeCoordinator::Attachment>(*coordinator_->core, index);
    }
    VcpuThread(const VcpuThread&) = delete;
    VcpuThread& operator=(const VcpuThread&) = delete;
    ~VcpuThread() {
        if (attachment_ && std::this_thread::get_id() != owner_) {
            // Forgotten without close(), and collected elsewhere: what belongs to that thread cannot be undone here.
            // The vCPU keeps its place, and a freeze names it.
            [[maybe_unused]] const auto* const forgotten = attachment_.release();
        }
    }

    // The exit, or nothing when the coordinator was killed.
    std::optional<ExitObject> run(std::optional<double> timeout) {
        check_thread();
        Vcpu& vcpu = *coordinator_->vcpus.at(index_);
        LoopHead next = LoopHead::run;
        Exit exit;
        const bool done = wait_interruptible(timeout, [&](std::chrono::milliseconds slice) {
            const RunTimer timer(vcpu, slice_ns(slice));
            for (;;) {
                next = attachment_->head(slice_ns(slice));
                if (next != LoopHead::run) {
                    return next == LoopHead::killed;  // parked: the signals of Python are looked at meanwhile
                }
                if (RunTimer::has_fired()) {
                    return false;
                }
                const RunResult outcome = vcpu.run();
                exit = decode_exit(kHostArch, outcome.result, outcome.errno_value, vcpu.run_bytes());
                if (!exit.is_interrupted()) {
                    return true;
                }
            }
        });
        if (next == LoopHead::killed) {
            return std::nullopt;
        }
        if (!done) {
            throw SystemError(ETIMEDOUT, "KVM_RUN",
                              next == LoopHead::parked ? "the vCPU is parked; thaw() lets it go on"
                                                       : "the guest ran on without an exit");
        }
        return keep_exit(exit, vcpu.run_bytes());
    }

    void close() {
        if (attachment_) {
            check_thread();
            const py::gil_scoped_release release;
            attachment_.reset();
        }
    }

private:
    void check_thread() const {
        if (!attachment_) {
            throw StateError("the vCPU's thread has been closed");
        }
        if (std::this_thread::get_id() != owner_) {
            throw StateError("this vCPU was attached by another thread");
        }
        coordinator_->vcpus.at(index_)->check_process();
    }

    std::shared_ptr<Coordinator> coordinator_;
    std::size_t index_;
    std::thread::id owner_ = std::this_thread::get_id();
    std::unique_ptr<FreezeCoordinator::Attachment> attachment_;
};

}  // namespace

std::vector<std::optional<RegisterSnapshot>> freeze_vcpus(FreezeCoordinator& freezer, std::optional<double> timeout) {
    FreezeCoordinator::Outcome outcome;
    freezer.begin_freeze();
    try {
        (void)wait_interruptible(timeout,
                                 [&](std::chrono::milliseconds slice) { return freezer.wait_parked(slice_ns(slice)); });
    } catch (...) {
        freezer.finish_freeze(outcome);
        if (outcome.status == FreezeStatus::frozen) {
            freezer.thaw();
        }
        throw;
    }
    freezer.finish_freeze(outcome);
    if (outcome.status == FreezeStatus::killed) {
        throw StateError("the vCPUs were killed");
    }
    if (outcome.status == FreezeStatus::timed_out) {
        std::string names;
        for (const std::size_t index : outcome.not_parked) {
            names += (names.empty() ? "" : ", ") + std::to_string(index);
        }
        throw Error("vCPU " + names + " did not park in time; nothing was read, and the guest runs on",
                    "FreezeTimeoutError", {{"not_parked", names}});
    }
    return std::move(outcome.snapshots);
}

void register_freeze(py::module_& module) {
    py::classh<VcpuThread>(
        module, "VcpuThread",
        "A vCPU's thread, between `FreezeCoordinator.attach` and the end of its `with` block. Only the "
        "thread that attached may use it.")
        .def("run", &VcpuThread::run, py::arg("timeout"),
             "Runs until an exit, which it gives; None when the coordinator was killed. Parks meanwhile whenever a "
             "freeze is wanted. Without the GIL; raises TimeoutError after `timeout` seconds (None: never), also while "
             "it is parked: it stays so, and the next `run` goes on from there. On the main thread Ctrl-C ends it.")
        .def("close", &VcpuThread::close, "Detaches. Idempotent.")
        .def(
            "__enter__", [](VcpuThread& self) -> VcpuThread& { return self; }, py::return_value_policy::reference)
        .def("__exit__", [](VcpuThread& self, const py::args&) { self.close(); });
    py::class_<Coordinator, std::shared_ptr<Coordinator>>(
        module, "FreezeCoordinator",
        "Stops all vCPUs of a guest between two instructions, and lets them go on. Each runs on a thread of its own "
        "that attached; `freeze`, `thaw` and `kill` are anybody's. Inert in a forked child.")
        .def(py::init([](const py::sequence& vcpus) {
                 auto coordinator = std::make_shared<Coordinator>();
                 for (const py::handle vcpu : vcpus) {
                     coordinator->vcpus.push_back(&vcpu.cast<Vcpu&>());
                     coordinator->owners.push_back(py::reinterpret_borrow<py::object>(vcpu));
                 }
                 coordinator->core = std::make_unique<FreezeCoordinator>(coordinator->vcpus);
                 return coordinator;
             }),
             py::arg("vcpus"))
        .def(
            "attach",
            [](const std::shared_ptr<Coordinator>& self, std::size_t index) {
                return std::make_unique<VcpuThread>(self, index);
            },
            py::arg("index"), ReleaseGil(),
            "Makes the calling thread the vCPU's. StateError when it has one, VmthawValueError without such a vCPU.")
        .def(
            "freeze",
            [](Coordinator& self, std::optional<double> timeout) { return freeze_vcpus(*self.core, timeout); },
            py::arg("timeout") = 30.0,
            "Parks every vCPU that has a thread and gives their snapshots, by number (None: no thread, or the "
            "registers could not be read). Raises FreezeTimeoutError, whose `not_parked` names those that did not "
            "park; "
            "then nothing was read, and the guest runs on. StateError when frozen already, or killed. Ctrl-C ends the "
            "wait.")
        .def(
            "thaw", [](Coordinator& self) { self.core->thaw(); }, ReleaseGil(),
            "Lets the vCPUs go on. StateError when they are not frozen.")
        .def(
            "kill", [](Coordinator& self) { self.core->kill(); }, ReleaseGil(),
            "Ends every run and every wait, for good. Idempotent.")
        .def_property_readonly("killed", [](const Coordinator& self) { return self.core->is_killed(); })
        .def(
            "is_parked", [](const Coordinator& self, std::size_t index) { return self.core->is_parked(index); },
            py::arg("index"), "Whether that vCPU is parked now.")
        .def(
            "parked_fileno", [](Coordinator& self) { return self.core->parked_fd(); },
            "The eventfd with one edge for each park. A freeze reads it too.");
}

}  // namespace vmthaw::bindings
