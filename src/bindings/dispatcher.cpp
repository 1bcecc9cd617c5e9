// GIL and locking: an exit is handled with the GIL released; devices written in Python take it for their own windows
// alone (bindings/python_device.hpp).
#include "machine/dispatcher.hpp"

#include <cstddef>
#include <memory>
#include <span>
#include <utility>

#include "base/error.hpp"
#include "bindings/bindings.hpp"
#include "bindings/buffer_view.hpp"
#include "bindings/exit.hpp"
#include "bindings/python_device.hpp"

namespace vmthaw::bindings {
namespace {

ExitAction handle_in(const Dispatcher& self, const Exit& exit, std::span<std::byte> run_bytes) {
    ExitAction action;
    {
        const py::gil_scoped_release release;
        action = self.handle(exit, run_bytes);
    }
    raise_device_error();
    return action;
}

ExitAction handle(const Dispatcher& self, const ExitObject& exit, const py::object& run_bytes) {
    if (!run_bytes.is_none()) {
        const BufferView view(run_bytes, true);
        return handle_in(self, exit.exit, view.bytes());
    }
    if (exit.vcpu == nullptr) {
        throw ArgumentError(
            "this exit came from no vCPU; give the writable bytes that it was decoded from as run_bytes");
    }
    exit.vcpu->check_process();
    if (exit.vcpu->runs() != exit.run) {
        throw StateError("the vCPU has run on since this exit, so nobody waits for its answer any more");
    }
    return handle_in(self, exit.exit, exit.vcpu->run_bytes());
}

}  // namespace

void register_dispatcher(py::module_& module) {
    py::classh<Dispatcher>(
        module, "Dispatcher", py::release_gil_before_calling_cpp_dtor(),
        "Does what the classifier decides: feeds devices, and writes what they answer to where the "
        "guest finds it at the next run. Thread-safe; the GIL is released, and taken only by devices "
        "that are written in Python.")
        .def(py::init([](ExitProfile profile, std::shared_ptr<Buses> buses) {
                 return std::make_unique<Dispatcher>(profile, std::move(buses));
             }),
             py::arg("profile"), py::arg("buses"), "The buses take no more devices from now on.")
        .def("handle", &handle, py::arg("exit"), py::arg("run_bytes") = py::none(),
             "Handles one exit, once, and gives the action, by the dispatcher's own profile. The answer goes into the "
             "mapping of the vCPU that the exit came from, or into `run_bytes`, a writable buffer laid out like that "
             "one. Raises what a device written in Python raised (the VM cannot go on then), StateError when the vCPU "
             "has run on since, VmthawValueError for an exit of no vCPU without run_bytes.")
        .def_property_readonly("profile", &Dispatcher::profile, "lenient or strict.")
        .def_property_readonly("buses", [](const Dispatcher& self) { return self.buses(); }, "Whose devices it feeds.");
}

}  // namespace vmthaw::bindings
