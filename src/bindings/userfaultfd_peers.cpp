// GIL and locking: arguments are taken apart with the GIL held, then the system calls run without it. The vectors of
// shared pointers keep every descriptor open meanwhile, whoever closes it.
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "bindings/userfaultfd_object.hpp"
#include "bindings/userfaultfd_values.hpp"
#include "userfaultfd/liveness_checker.hpp"
#include "userfaultfd/page_presence.hpp"
#include "userfaultfd/registration.hpp"

namespace vmthaw::bindings {
namespace {

// Owns what DescriptorRanges borrows.
struct Entries {
    explicit Entries(const py::iterable& regions) {
        for (const py::handle region : regions) {
            const auto [object, given] = region.cast<std::pair<py::object, py::iterable>>();
            std::vector<AddressRange> ranges;
            for (const py::handle range : given) {
                const auto [address, size] = range.cast<std::pair<std::uint64_t, std::uint64_t>>();
                ranges.push_back({address, size});
            }
            held.push_back(object.cast<const UserfaultfdObject&>().get());
            owned.push_back(std::move(ranges));
        }
        for (std::size_t index = 0; index < held.size(); ++index) {
            borrowed.push_back({held[index].get(), owned[index]});
        }
    }
    std::vector<std::shared_ptr<const Userfaultfd>> held;
    std::vector<std::vector<AddressRange>> owned;
    std::vector<DescriptorRanges> borrowed;
};

}  // namespace

void register_userfaultfd_peers(py::module_& module) {
    py::classh<RegistrationOutcome>(module, "RegistrationOutcome", "What register_regions() did. Immutable.")
        .def_readonly("skipped", &RegistrationOutcome::skipped, "Indices of the entries whose process is gone.")
        .def_readonly("ioctls", &RegistrationOutcome::ioctls,
                      "Mask (RANGE_*) of the calls that every registered range allows.");
    module.def(
        "register_regions",
        [](const py::iterable& regions, std::uint64_t modes) {
            const Entries entries(regions);
            const py::gil_scoped_release release;
            return register_regions(entries.borrowed, modes);
        },
        py::arg("regions"), py::arg("modes") = kRegisterMissing,
        "Register many ranges with many descriptors: `regions` gives (Userfaultfd, [(address, size_bytes), ...]). A "
        "process that is gone is skipped; after any other failure everything is rolled back and the OSError names the "
        "range. Releases the GIL.");
    module.def(
        "unregister_regions",
        [](const py::iterable& regions) {
            const Entries entries(regions);
            const py::gil_scoped_release release;
            return unregister_regions(entries.borrowed);
        },
        py::arg("regions"),
        "Unregister as many of the ranges as can be, then raise the first failure, if any. Processes that are gone are "
        "skipped. Releases the GIL.");
    py::classh<LivenessChecker>(
        module, "LivenessChecker",
        "Tells whether the process behind a userfaultfd still has its memory; the descriptor itself never says. Safe "
        "from several threads. check() touches no page of the process but the checker's own.")
        .def(py::init(&LivenessChecker::before_fork),
             "For children still to be forked: allocates a dummy page that they inherit. register_page() it with each "
             "of "
             "their descriptors.")
        .def_static(
            "for_adopted",
            [](std::optional<std::uint64_t> address) {
                return std::make_unique<LivenessChecker>(address ? LivenessChecker::for_adopted(*address)
                                                                 : LivenessChecker::for_adopted());
            },
            py::arg("address") = py::none(),
            "For descriptors of strangers: aims at `address`, which must be in no mapping of theirs (None: the lowest "
            "address that the kernel allows).")
        .def_property_readonly("address", &LivenessChecker::host_address, "The host address it aims at.")
        .def(
            "register_page",
            [](const LivenessChecker& self, const UserfaultfdObject& userfaultfd) {
                const auto held = userfaultfd.get();
                const py::gil_scoped_release release;
                self.register_page(*held);
            },
            py::arg("userfaultfd"),
            "Register the dummy page in the process behind `userfaultfd`; nothing to do after for_adopted(). OSError.")
        .def(
            "check",
            [](const LivenessChecker& self, const UserfaultfdObject& userfaultfd) {
                const auto held = userfaultfd.get();
                const py::gil_scoped_release release;
                return self.check(*held);
            },
            py::arg("userfaultfd"), "A Liveness; execve() counts as dead. Releases the GIL.");
    module.def(
        "page_is_present",
        [](int pid, std::uint64_t address) {
            const py::gil_scoped_release release;
            return page_is_present(pid, address);
        },
        py::arg("pid"), py::arg("address"),
        "Whether the page tables of `pid` hold a page at `address`, by /proc/<pid>/pagemap; None when that cannot be "
        "read. Releases the GIL.");
}

}  // namespace vmthaw::bindings
