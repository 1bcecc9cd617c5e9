#pragma once

#include <pybind11/pybind11.h>

namespace vmthaw::bindings {

namespace py = pybind11;

void register_errors(py::module_& module);
void register_log(py::module_& module);
void register_userfaultfd(py::module_& module);
void register_source(py::module_& module);
void register_pager(py::module_& module);
void register_trace(py::module_& module);
void register_handover_message(py::module_& module);
void register_handover(py::module_& module);
void register_testing(py::module_& module);

}  // namespace vmthaw::bindings
