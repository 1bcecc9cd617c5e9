// GIL and locking: run_vcpu releases the GIL for as long as the guest runs; a handler written in Python takes it for
// its own exits alone, on the vCPU's thread, with no lock held. What a handler raises never leaves the loop: it ends
// the run and is kept, for `error`. Waits are cut into slices, between which Python's signal handlers run.
#include "machine/run_loop/run_loop.hpp"

#include <pybind11/native_enum.h>
#include <pybind11/stl.h>

#include <cerrno>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings/bindings.hpp"
#include "bindings/exit.hpp"
#include "bindings/freeze.hpp"
#include "bindings/python_device.hpp"
#include "bindings/record_array.hpp"
#include "bindings/wait.hpp"
#include "bindings/watchpoints.hpp"

namespace vmthaw::bindings {
namespace {

// Calls what Python registered. Made and destroyed with the GIL held.
class PythonExitHandler final : public ExitHandler {
public:
    PythonExitHandler(std::vector<py::object> vcpus, std::vector<py::function> functions)
        : vcpus_(std::move(vcpus)), functions_(std::move(functions)) {}

    std::optional<ExitAction> handle(std::size_t vcpu, const Exit& exit, Vcpu& target,
                                     std::size_t entry) noexcept override {
        const ExitAction failed{ExitActionKind::fatal, {}};
        try {
            const py::gil_scoped_acquire acquire;
            try {
                const ExitObject object = keep_exit(exit, target, vcpus_.at(vcpu));
                return action_of(functions_.at(entry)(object), object, target);
            } catch (py::error_already_set& error) {
                keep(error.value());
            } catch (const std::exception& error) {
                keep(py::module_::import("vmthaw.errors").attr("VmthawValueError")(error.what()));
            }
        } catch (...) {
            return failed;  // without the memory to take the GIL, or to keep an error, it says no more
        }
        return failed;
    }

    // What the first handler that failed raised, or None. GIL held.
    [[nodiscard]] py::object error() const { return error_; }
    void keep(py::object error) {
        if (error_.is_none()) {
            error_ = std::move(error);
        }
    }

private:
    static std::optional<ExitAction> action_of(const py::object& answer, const ExitObject& exit, Vcpu& target) {
        if (answer.is_none()) {
            return std::nullopt;
        }
        if (py::isinstance<py::bytes>(answer)) {
            answer_exit(target, exit, answer.cast<py::bytes>());
            return ExitAction{ExitActionKind::continue_, {}};
        }
        if (py::isinstance<ExitActionKind>(answer)) {
            return ExitAction{answer.cast<ExitActionKind>(), {}};
        }
        if (py::isinstance<ExitAction>(answer)) {
            return answer.cast<ExitAction>();
        }
        throw ArgumentError(
            "a handler of exits gives an ExitAction, an ExitActionKind, bytes that answer a read, or None, not " +
            py::repr(answer).cast<std::string>());
    }

    std::vector<py::object> vcpus_;
    std::vector<py::function> functions_;
    py::object error_ = py::none();
};

// The loop, and the Python objects that it must not outlive.
struct Loop {
    std::vector<py::object> vcpus;
    std::shared_ptr<PythonExitHandler> handler;
    std::shared_ptr<WatchpointsObject> watchpoints;
    std::unique_ptr<RunLoop> core;
};

struct EndObject {
    RunEnd end;
    ExitObject exit;
};

using Place = std::tuple<std::string, std::uint64_t, std::uint64_t, py::function>;  // kind, first, last, handler

std::shared_ptr<Loop> make_loop(const py::sequence& vcpus, const std::shared_ptr<Dispatcher>& dispatcher,
                                const std::vector<Place>& places, std::size_t records, bool registers,
                                const std::shared_ptr<WatchpointsObject>& watchpoints) {
    auto loop = std::make_shared<Loop>();
    std::vector<Vcpu*> pointers;
    for (const py::handle vcpu : vcpus) {
        pointers.push_back(&vcpu.cast<Vcpu&>());
        loop->vcpus.push_back(py::reinterpret_borrow<py::object>(vcpu));
    }
    ExitFilter filter;
    std::vector<py::function> functions;
    for (const auto& [kind, first, last, function] : places) {
        if (kind == "port") {
            (void)filter.add_ports(first, last);
        } else if (kind == "mmio") {
            (void)filter.add_mmio(first, last);
        } else {
            if (first > 0xFFFF'FFFF) {
                throw ArgumentError("an exit reason has 32 bits");
            }
            (void)filter.add_reason(static_cast<std::uint32_t>(first));
        }
        functions.push_back(function);
    }
    loop->handler = std::make_shared<PythonExitHandler>(loop->vcpus, std::move(functions));
    loop->watchpoints = watchpoints;
    // Shares the object above, whose core it is.
    std::shared_ptr<Watchpoints> shared(watchpoints, watchpoints ? watchpoints->core.get() : nullptr);
    loop->core = std::make_unique<RunLoop>(pointers, dispatcher, std::move(filter), loop->handler,
                                           RunLoopOptions{records, registers, std::move(shared)});
    return loop;
}

void run_vcpu(const std::shared_ptr<Loop>& self, std::size_t index) {
    {
        const py::gil_scoped_release release;
        self->core->run_vcpu(index);
    }
    try {
        raise_device_error();
    } catch (py::error_already_set& error) {
        self->handler->keep(error.value());  // wait() raises it; this thread has nobody to raise it to
    }
}

std::optional<EndObject> end_of(const Loop& self) {
    std::optional<RunEnd> end;
    {
        const py::gil_scoped_release release;
        end = self.core->end();
    }
    if (!end) {
        return std::nullopt;
    }
    ExitObject exit{end->exit, {}, {}};
    return EndObject{std::move(*end), std::move(exit)};
}

py::dict loop_stats(const Loop& self, std::size_t index) {
    const VcpuCounters& counters = self.core->counters(index);
    py::dict exits;
    for (std::size_t reason = 0; reason < VcpuCounters::kReasons; ++reason) {
        if (const std::uint64_t count = counters.exits(reason); count != 0) {
            const auto name = exit_reason_name(static_cast<std::uint32_t>(reason));
            exits[py::str(name.empty() ? std::string("other") : std::string(name))] = count;
        }
    }
    py::dict out;
    out["exits"] = exits;
    out["handled"] = counters.handled();
    out["interruptions"] = counters.interruptions();
    out["guest_ns"] = self.core->guest_ns(index);
    out["host_ns"] = self.core->host_ns(index);
    return out;
}

py::dtype exit_record_dtype() {
    RecordDtype dtype;
    dtype.field("t_enter_ns", "<u8", offsetof(ExitRecord, t_enter_ns));
    dtype.field("t_exit_ns", "<u8", offsetof(ExitRecord, t_exit_ns));
    dtype.field("t_decided_ns", "<u8", offsetof(ExitRecord, t_decided_ns));
    dtype.field("address", "<u8", offsetof(ExitRecord, address));
    dtype.field("instruction_pointer", "<u8", offsetof(ExitRecord, instruction_pointer));
    dtype.field("stack_pointer", "<u8", offsetof(ExitRecord, stack_pointer));
    dtype.field("page_table_root", "<u8", offsetof(ExitRecord, page_table_root));
    dtype.field("length", "<u4", offsetof(ExitRecord, length));
    dtype.field("reason", "<u4", offsetof(ExitRecord, reason));
    dtype.field("error", "<i4", offsetof(ExitRecord, error));
    dtype.field("vcpu", "<u2", offsetof(ExitRecord, vcpu));
    dtype.field("action", "u1", offsetof(ExitRecord, action));
    dtype.field("flags", "u1", offsetof(ExitRecord, flags));
    return dtype.make(sizeof(ExitRecord));
}

py::array take_records(const Loop& self, std::size_t limit) {
    auto records = std::make_unique<std::vector<ExitRecord>>();
    {
        const py::gil_scoped_release release;
        ExitRecord record;
        Ring<ExitRecord>* const ring = self.core->records();
        while (ring != nullptr && records->size() < limit && ring->pop(record)) {
            records->push_back(record);
        }
    }
    return record_array(std::move(records), exit_record_dtype());
}

}  // namespace

void register_run_loop(py::module_& module) {
    py::native_enum<RunEndKind>(module, "RunEndKind", "enum.Enum", "How a run ended.")
        .value("stopped", RunEndKind::stopped, "Somebody asked for it.")
        .value("shutdown", RunEndKind::shutdown, "The guest powered off or reset.")
        .value("halted", RunEndKind::halted, "A vCPU halted, and nothing can wake it.")
        .value("unhandled", RunEndKind::unhandled, "An exit that nobody has an answer to.")
        .value("fatal", RunEndKind::fatal, "There is no going on.")
        .finalize();
    py::classh<EndObject>(module, "RunEnd", "How a run ended. A plain value.")
        .def_property_readonly("kind", [](const EndObject& self) { return self.end.kind; })
        .def_property_readonly(
            "vcpu", [](const EndObject& self) { return self.end.vcpu; }, "Whose exit it was; 0 of `stopped`.")
        .def_property_readonly(
            "exit",
            [](const EndObject& self) -> std::optional<ExitObject> {
                return self.end.kind == RunEndKind::stopped ? std::nullopt : std::optional(self.exit);
            },
            "The exit; None of `stopped`.")
        .def_property_readonly(
            "action", [](const EndObject& self) { return self.end.action; }, "What was decided about it.")
        .def_property_readonly(
            "device", [](const EndObject& self) { return self.end.device; },
            "The window whose device failed, or an empty string.");
    py::class_<Loop, std::shared_ptr<Loop>>(module, "RunLoopCore", "What vmthaw.run_loop.RunLoop stands on.")
        .def(py::init(&make_loop), py::arg("vcpus"), py::arg("dispatcher"), py::arg("places"), py::arg("records"),
             py::arg("registers"), py::arg("watchpoints"))
        .def("run_vcpu", &run_vcpu, py::arg("index"))
        .def(
            "stop", [](Loop& self) { self.core->stop(); }, py::call_guard<py::gil_scoped_release>())
        .def(
            "wait",
            [](Loop& self, std::optional<double> timeout) {
                return wait_interruptible(
                    timeout, [&](std::chrono::milliseconds slice) { return self.core->wait(slice_ns(slice)); });
            },
            py::arg("timeout"))
        .def("wait_begun",
             [](Loop& self) {
                 (void)wait_interruptible(
                     {}, [&](std::chrono::milliseconds slice) { return self.core->wait_begun(slice_ns(slice)); });
             })
        .def(
            "freeze",
            [](Loop& self, std::optional<double> timeout) { return freeze_vcpus(self.core->freezer(), timeout); },
            py::arg("timeout"))
        .def(
            "thaw", [](Loop& self) { self.core->freezer().thaw(); }, py::call_guard<py::gil_scoped_release>())
        .def(
            "nudge", [](Loop& self) { self.core->freezer().nudge(); }, py::call_guard<py::gil_scoped_release>())
        .def_property_readonly("frozen", [](const Loop& self) { return self.core->freezer().is_frozen(); })
        .def_property_readonly("end", &end_of)
        .def_property_readonly("error", [](const Loop& self) { return self.handler->error(); })
        .def("stats", &loop_stats, py::arg("index"))
        .def("take_records", &take_records, py::arg("limit"))
        .def("dropped_records", [](const Loop& self) {
            const Ring<ExitRecord>* const ring = self.core->records();
            return ring != nullptr ? ring->dropped() : 0;
        });
    module.def("exit_record_dtype", &exit_record_dtype, "The numpy dtype of an ExitRecord: 72 bytes, little-endian.");
}

}  // namespace vmthaw::bindings
