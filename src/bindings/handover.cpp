#include "bindings/bindings.hpp"

namespace vmthaw::bindings {

void register_handover(py::module_& /*module*/) {}

}  // namespace vmthaw::bindings
