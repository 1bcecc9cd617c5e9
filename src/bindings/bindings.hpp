#pragma once

#include <pybind11/pybind11.h>

namespace vmthaw::bindings {

namespace py = pybind11;
// For calls that may wait: once here, since the files are compiled several at a time.
using ReleaseGil = py::call_guard<py::gil_scoped_release>;

void register_errors(py::module_& module);
void register_log(py::module_& module);
void register_userfaultfd(py::module_& module);
void register_source(py::module_& module);
void register_pager(py::module_& module);
void register_trace(py::module_& module);
void register_handover_message(py::module_& module);
void register_handover(py::module_& module);
void register_testing(py::module_& module);
void register_exit(py::module_& module);
void register_exit_classifier(py::module_& module);
void register_devices(py::module_& module);
void register_virtio_mmio(py::module_& module);
void register_dispatcher(py::module_& module);
void register_kvm(py::module_& module);
void register_vcpu(py::module_& module);
void register_guest_memory(py::module_& module);
void register_registers(py::module_& module);
void register_capture_benchmark(py::module_& module);
void register_exit_benchmark(py::module_& module);
void register_freeze(py::module_& module);
void register_run_loop(py::module_& module);
void register_watchpoints(py::module_& module);
void register_machine(py::module_& module);
void register_snapshot(py::module_& module);
void register_dax(py::module_& module);
void register_dax_session(py::module_& module);
void register_dax_benchmark(py::module_& module);
void register_file_system(py::module_& module);
void register_python_fs(py::module_& module);
void register_fuse_dispatcher(py::module_& module);
void register_passthrough_fs(py::module_& module);
void register_fuse_server(py::module_& module);

}  // namespace vmthaw::bindings
