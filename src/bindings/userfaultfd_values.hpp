#pragma once

#include "bindings/bindings.hpp"
#include "userfaultfd/features.hpp"

namespace vmthaw::bindings {

// Features travel as the enum.IntFlag `Feature`; a plain int is taken as well.
[[nodiscard]] py::object to_python(Features features);
[[nodiscard]] Features features_from(const py::handle& value);

// The numpy dtype of struct uffd_msg: one overlapping field per member of every event. Imports numpy.
[[nodiscard]] py::object message_dtype();

void register_userfaultfd_values(py::module_& module);   // enums, outcomes, constants
void register_userfaultfd_object(py::module_& module);   // Userfaultfd
void register_userfaultfd_factory(py::module_& module);  // UserfaultfdFactory
void register_userfaultfd_peers(py::module_& module);    // LivenessChecker, register_regions, page_is_present

}  // namespace vmthaw::bindings
