#pragma once

#include "bindings/bindings.hpp"
#include "pager/pager_session.hpp"

namespace vmthaw::bindings {

// A property's getter that runs with the GIL released.
template <typename Getter>
py::cpp_function unlocked(Getter getter) {
    return py::cpp_function(getter, py::call_guard<py::gil_scoped_release>());
}

// PagerSession and its enumerations: part of the pager room, in a file of its own.
void register_session(py::module_& module);

}  // namespace vmthaw::bindings
