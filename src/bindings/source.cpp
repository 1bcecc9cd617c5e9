#include "bindings/bindings.hpp"

namespace vmthaw::bindings {

void register_source(py::module_& /*module*/) {}

}  // namespace vmthaw::bindings
