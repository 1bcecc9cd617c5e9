#include "bindings/bindings.hpp"

namespace vmthaw::bindings {

void register_log(py::module_& /*module*/) {}

}  // namespace vmthaw::bindings
