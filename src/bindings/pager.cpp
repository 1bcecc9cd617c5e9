#include "bindings/bindings.hpp"

namespace vmthaw::bindings {

void register_pager(py::module_& /*module*/) {}

}  // namespace vmthaw::bindings
