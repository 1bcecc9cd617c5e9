#include "bindings/bindings.hpp"
#include "bindings/userfaultfd_values.hpp"

namespace vmthaw::bindings {

void register_userfaultfd(py::module_& module) {
    register_userfaultfd_values(module);
    register_userfaultfd_object(module);
    register_userfaultfd_factory(module);
    register_userfaultfd_peers(module);
}

}  // namespace vmthaw::bindings
