#include "bindings/bindings.hpp"

namespace vmthaw::bindings {

void register_userfaultfd(py::module_& /*module*/) {}

}  // namespace vmthaw::bindings
