#include "bindings/bindings.hpp"

namespace vmthaw::bindings {

void register_testing(py::module_& /*module*/) {}

}  // namespace vmthaw::bindings
