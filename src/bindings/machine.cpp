// GIL and locking: everything that runs the guest, writes into it or waits for a lock of the core runs with the GIL
// released; a run is cut into slices, between which Python's signal handlers run. What touches guest memory goes to a
// thread of its own (call_detached), since a page may be missing for ever.
#include "machine/machine.hpp"

#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/bindings.hpp"
#include "bindings/detached_call.hpp"
#include "bindings/exit.hpp"
#include "bindings/machine_hold.hpp"
#include "bindings/machine_values.hpp"
#include "bindings/wait.hpp"
#include "machine/exit_registers.hpp"

namespace vmthaw::bindings {
namespace {

using payload::Command;
using payload::Report;
using payload::Workload;
using MachinePointer = std::shared_ptr<Machine>;

ExitObject run(const MachinePointer& self, std::size_t vcpu, std::optional<double> timeout) {
    std::optional<Exit> exit;
    const bool done = wait_interruptible(timeout, [&](std::chrono::milliseconds slice) {
        exit = self->run_slice(vcpu, slice_ns(slice));
        return exit.has_value();
    });
    if (!done || !exit) {
        throw SystemError(ETIMEDOUT, "KVM_RUN", "the guest ran on without an exit");
    }
    keep_registers(self->vcpu(vcpu), *exit);
    return keep_exit(*exit, self->vcpu(vcpu), py::cast(self));
}

// `hold` is that of a run whose vCPUs are frozen; without one the machine must not be in use.
FullRegisters capture(const MachinePointer& self, std::size_t vcpu, const HoldObject* hold) {
    if (hold != nullptr) {
        hold->check(*self);
    }
    const py::gil_scoped_release release;
    return hold != nullptr ? self->capture_full(*hold->hold, vcpu) : self->capture_full(Machine::Hold(*self), vcpu);
}

py::dict to_dict(const Report& report) {
    py::dict out;
    out["status"] = report.status;
    out["pages"] = report.pages;
    out["words"] = report.words;
    out["mismatches"] = report.mismatches;
    out["wrong_address"] = report.wrong_address;
    out["wrong_page"] = report.wrong_page;
    out["expected"] = report.expected;
    out["found"] = report.found;
    out["checksum"] = report.checksum;
    out["iterations"] = report.iterations;
    out["tsc"] = report.tsc_end - report.tsc_start;
    return out;
}

py::dict finish(const MachinePointer& self, std::optional<double> timeout) {
    std::optional<Report> report;
    const bool done = wait_interruptible(timeout, [&](std::chrono::milliseconds slice) {
        report = self->continue_command(slice_ns(slice));
        return report.has_value();
    });
    if (!done || !report) {
        throw SystemError(ETIMEDOUT, "the guest's command",
                          "it goes on with finish(); a page that nobody serves would hold it up");
    }
    return to_dict(*report);
}

void start(const MachinePointer& self, const Command& command, double timeout) {
    // The mailbox may be a page that is still missing.
    call_detached("giving the guest a command", timeout, [self, command] { self->start_command(command); });
}

}  // namespace

Workload workload_from(const WorkloadTuple& given) {
    const auto& [seed, zero_share, rewrites] = given;
    Workload workload{};
    if (rewrites.size() > payload::kMostRewrites) {
        throw ArgumentError("a workload has at most " + std::to_string(payload::kMostRewrites) + " rewritings");
    }
    workload.seed = seed;
    workload.zero_share = zero_share;
    workload.rewrite_count = rewrites.size();
    for (std::size_t i = 0; i < rewrites.size(); ++i) {
        const auto& [rewrite_seed, share, first_page, pages] = rewrites[i];
        workload.rewrites[i] = {rewrite_seed, share, first_page, pages};
    }
    return workload;
}

WorkloadTuple workload_to(const Workload& workload) {
    std::vector<RewriteTuple> rewrites;
    for (std::size_t i = 0; i < workload.rewrite_count && i < payload::kMostRewrites; ++i) {
        const payload::Rewrite& rewrite = workload.rewrites[i];
        rewrites.emplace_back(rewrite.seed, rewrite.share, rewrite.first_page, rewrite.pages);
    }
    return {workload.seed, workload.zero_share, std::move(rewrites)};
}

void register_machine(py::module_& module) {
    module.attr("FIRST_WORK_PAGE") = payload::kFirstWorkPage;
    module.attr("DONE_PORT") = payload::kDonePort;
    py::classh<HoldObject>(module, "MachineHold", "Keeps others from running or saving a machine.")
        .def(
            "release", [](HoldObject& self) { self.hold.reset(); },
            "Lets the machine go, as soon as a save that waits for a page is over. Idempotent.");
    py::class_<Machine, MachinePointer>(module, "MachineCore", "What vmthaw.machine.Machine stands on.")
        .def(py::init(
                 [](std::shared_ptr<GuestMemory> memory, std::uint32_t vcpus, bool irqchip, std::uint32_t dirty_ring) {
                     return std::make_shared<Machine>(std::move(memory), vcpus, MachineOptions{irqchip, dirty_ring});
                 }),
             py::arg("memory"), py::arg("vcpus"), py::arg("irqchip"), py::arg("dirty_ring"),
             py::call_guard<py::gil_scoped_release>())
        .def("hold",
             [](const MachinePointer& self) { return HoldObject{self, std::make_shared<Machine::Hold>(*self)}; })
        .def_property_readonly("memory", &Machine::memory)
        .def_property_readonly("busy", &Machine::is_busy)
        .def("load_payload",
             [](const MachinePointer& self) {
                 call_detached("loading the payload", 30.0, [self] { self->load_payload(); });
             })
        .def("run", &run, py::arg("vcpu"), py::arg("timeout"))
        .def("capture_full", &capture, py::arg("vcpu"), py::arg("hold"))
        .def(
            "vcpu", [](Machine& self, std::size_t index) -> Vcpu& { return self.vcpu(index); }, py::arg("index"),
            py::return_value_policy::reference_internal)
        .def(
            "vm", [](Machine& self) -> Vm& { return self.vm(); }, py::return_value_policy::reference_internal)
        .def(
            "start",
            [](const MachinePointer& self, std::uint64_t operation, std::uint64_t first_page, std::uint64_t pages,
               std::uint64_t count, std::uint64_t order, std::uint64_t seed, bool one_word,
               const WorkloadTuple& workload, double timeout) {
                start(self,
                      {operation, first_page, pages, count, order, seed, one_word ? 1U : 0U, workload_from(workload)},
                      timeout);
            },
            py::arg("operation"), py::arg("first_page"), py::arg("pages"), py::arg("count"), py::arg("order"),
            py::arg("seed"), py::arg("one_word"), py::arg("workload"), py::arg("timeout"))
        .def("finish", &finish, py::arg("timeout"))
        .def(
            "restore",
            [](const MachinePointer& self, const MachineState& state) {
                const py::gil_scoped_release release;
                self->restore(state);
            },
            py::arg("state"))
        .def(
            "begin_tracking",
            [](const MachinePointer& self, const MachineState& state, const std::string& directory) {
                const py::gil_scoped_release release;
                const Machine::Hold hold(*self);
                self->dirty().start();
                (void)self->dirty().take();
                self->set_base({state.identity, state.depth, directory});
            },
            py::arg("state"), py::arg("directory"),
            "The machine is as that snapshot: from now on its writes are the next diff's. `directory` is absolute.")
        .def_property_readonly(
            "dirty_tracking", [](Machine& self) { return dirty_tracking_name(self.dirty().way()); },
            "How the guest's writes are known: none, log, manual_log or ring.");
    module.def(
        "payload_word",
        [](const WorkloadTuple& workload, std::uint64_t page, std::uint64_t index) {
            return payload::content_of(workload_from(workload), page).word(index);
        },
        py::arg("workload"), py::arg("page"), py::arg("index"), "The word that a page must hold, as the guest has it.");
    module.def(
        "payload_generation",
        [](const WorkloadTuple& workload, std::uint64_t page) {
            return payload::generation_of(workload_from(workload), page);
        },
        py::arg("workload"), py::arg("page"), "The number of the last rewriting that took a page; 0: as filled.");
    module.def(
        "payload_touch_page",
        [](std::uint64_t order, std::uint64_t step, std::uint64_t pages, std::uint64_t seed) {
            if (pages == 0) {
                throw ArgumentError("there are no pages to touch");
            }
            return payload::page_of_touch(order, step, pages, seed);
        },
        py::arg("order"), py::arg("step"), py::arg("pages"), py::arg("seed"),
        "The page, from 0, that a touch visits as its `step`-th, as the guest has it.");
}

}  // namespace vmthaw::bindings
