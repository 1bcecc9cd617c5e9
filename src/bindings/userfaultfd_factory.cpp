// GIL and locking: probing and creating are system calls and run without the GIL; the factory is immutable.
#include "userfaultfd/userfaultfd_factory.hpp"

#include <pybind11/stl.h>

#include <memory>

#include "bindings/userfaultfd_object.hpp"
#include "bindings/userfaultfd_values.hpp"

namespace vmthaw::bindings {

void register_userfaultfd_factory(py::module_& module) {
    py::classh<UserfaultfdFactory>(
        module, "UserfaultfdFactory",
        "Makes Userfaultfd objects through /dev/userfaultfd, kept open, or else through userfaultfd(2).\n\n"
        "Safe from several threads. Every call may raise OSError: PermissionError names what refused (the device's "
        "mode, "
        "CAP_SYS_PTRACE, vm.unprivileged_userfaultfd) and how to mend it.")
        .def(py::init([](const py::object& required, const py::object& optional, bool close_on_exec, bool nonblocking,
                         bool user_mode_only) {
                 UserfaultfdOptions options;
                 options.required = required.is_none() ? kDefaultRequiredFeatures : features_from(required);
                 options.optional = optional.is_none() ? Features{} : features_from(optional);
                 options.close_on_exec = close_on_exec;
                 options.nonblocking = nonblocking;
                 options.user_mode_only = user_mode_only;
                 const py::gil_scoped_release release;
                 return std::make_unique<UserfaultfdFactory>(options);
             }),
             py::kw_only(), py::arg("required") = py::none(), py::arg("optional") = py::none(),
             py::arg("close_on_exec") = true, py::arg("nonblocking") = true, py::arg("user_mode_only") = false,
             "Probe the kernel. `required` (None: missing_shmem | event_remove) must all be there, else OSError "
             "(EOPNOTSUPP); `optional` are taken where the kernel has them. `user_mode_only` makes descriptors that do "
             "not see faults of KVM or of system calls.")
        .def(
            "create",
            [](const UserfaultfdFactory& self) {
                const py::gil_scoped_release release;
                return std::make_unique<UserfaultfdObject>(self.create());
            },
            "A new Userfaultfd with `features`. Releases the GIL.")
        .def(
            "try_clone",
            [](const UserfaultfdFactory& self) { return std::make_unique<UserfaultfdFactory>(self.try_clone()); },
            "A factory with a duplicate of the device's descriptor. OSError (EMFILE).")
        .def("descriptors", &UserfaultfdFactory::descriptors,
             "The numbers of the descriptors that create() needs, for sandboxes that close the rest; may be empty.")
        .def_property_readonly(
            "features", [](const UserfaultfdFactory& self) { return to_python(self.features()); },
            "What the descriptors made here have negotiated (Feature).")
        .def_property_readonly(
            "supported", [](const UserfaultfdFactory& self) { return to_python(self.supported()); },
            "What the kernel supports (Feature).")
        .def_static(
            "probe",
            [] {
                Features supported;
                {
                    const py::gil_scoped_release release;
                    supported = UserfaultfdFactory::probe();
                }
                return to_python(supported);
            },
            "What the kernel supports (Feature), asked of a throw-away descriptor; needs no privilege on Linux 5.11 "
            "and "
            "later.");
}

}  // namespace vmthaw::bindings
