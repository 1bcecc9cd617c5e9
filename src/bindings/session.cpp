#include "bindings/session.hpp"

#include <pybind11/native_enum.h>
#include <pybind11/stl.h>

#include "bindings/text.hpp"
#include "bindings/wait.hpp"
#include "pager/pager_stats.hpp"

// GIL and locking: every function that takes one of the session's locks releases the GIL first.
namespace vmthaw::bindings {
namespace {

using Release = py::call_guard<py::gil_scoped_release>;

void register_session_enums(py::module_& module) {
    py::native_enum<SessionState>(module, "SessionState", "enum.Enum", "Where a session is in its life.")
        .value("preparing", SessionState::preparing, "Pre-warming.")
        .value("serving", SessionState::serving)
        .value("draining", SessionState::draining, "Filling all that is missing.")
        .value("closed", SessionState::closed)
        .finalize();
    py::native_enum<EndReason>(module, "EndReason", "enum.Enum", "How a session ended.")
        .value("none", EndReason::none, "It has not.")
        .value("vm_exited", EndReason::vm_exited, "Nobody is left to miss a page.")
        .value("drained", EndReason::drained, "Every page is in the VM, and its ranges are unregistered.")
        .value("killed", EndReason::killed, "By our SIGKILL.")
        .value("detached", EndReason::detached, "Somebody else has the descriptor.")
        .value("failed", EndReason::failed, "See the session's failures.")
        .finalize();
    py::native_enum<SessionEventKind>(module, "SessionEventKind", "enum.Enum", "What happened to a session.")
        .value("connected", SessionEventKind::connected)
        .value("needs_source", SessionEventKind::needs_source)
        .value("first_fault", SessionEventKind::first_fault)
        .value("failed", SessionEventKind::failed)
        .value("closed", SessionEventKind::closed)
        .finalize();
}

py::tuple detach(const std::shared_ptr<PagerSession>& session) {
    DetachedSession detached;
    {
        const py::gil_scoped_release release;
        detached = session->detach();
    }
    py::list states;
    for (const std::vector<std::uint8_t>& pages : detached.page_states) {
        states.append(py::bytes(reinterpret_cast<const char*>(pages.data()), pages.size()));
    }
    return py::make_tuple(detached.fd.release(), detached.regions, states);
}

}  // namespace

void register_session(py::module_& module) {
    register_session_enums(module);
    py::classh<PagerSession>(module, "PagerSession", R"(One VM's memory, served until the VM is gone.

Made by PageServer. Never closed with pages missing: drain(), kill() or detach() say what else becomes of it. All
methods are safe from any thread and release the GIL.)")
        .def("_repr_html_", [](const py::object& self) { return html_of(self, "session_html"); })
        .def_property_readonly("id", &PagerSession::id, "A number, unique in this process.")
        .def_property_readonly("label", &PagerSession::label, "For people: 'pid 1234'.")
        .def_property_readonly("pid", &PagerSession::pid, "Of the VMM as it connected; -1 when not known.")
        .def_property_readonly("state", unlocked(&PagerSession::state))
        .def_property_readonly("end_reason", unlocked(&PagerSession::end_reason))
        .def_property_readonly("failures", unlocked(&PagerSession::failures), "Sentences; the first 64.")
        .def_property_readonly("regions", unlocked(&PagerSession::regions),
                               "As mapped now (REMAP and UNMAP move them).")
        .def_property_readonly("stats",
                               unlocked([](const PagerSession& session) { return snapshot(session.counters()); }),
                               "A PagerStats.")
        .def_property_readonly("failure_policy", &PagerSession::effective_policy, "kill, poison or hang.")
        .def("fileno", &PagerSession::descriptor, "The userfaultfd; -1 when closed. It stays the session's.")
        .def("missing_pages", &PagerSession::missing_pages, Release(),
             "Pages that the VM still misses although the source has bytes for them. Looks at every page.")
        .def(
            "drain",
            [](PagerSession& session, double timeout) { session.drain(static_cast<std::uint64_t>(timeout * 1e9)); },
            py::arg("timeout") = 30.0, Release(),
            "Starts filling all that is missing; then the ranges are unregistered and the session ends (drained). "
            "After "
            "`timeout` seconds the failure policy is applied to what is missing.")
        .def("kill", &PagerSession::kill, Release(), "SIGKILLs the VM by its pidfd. Raises StateError without one.")
        .def("_detach", &detach, "Ends serving; (descriptor, regions, page states) for a taker.")
        .def(
            "wait",
            [](const std::shared_ptr<PagerSession>& session, std::optional<double> timeout) {
                return wait_interruptible(timeout, [&](auto slice) { return session->wait_closed(slice); });
            },
            py::arg("timeout") = py::none(),
            "True when the session has ended within `timeout` seconds (None: for ever).")
        .def("__repr__", [](const PagerSession& session) {
            return "<PagerSession " + std::to_string(session.id()) + " " + session.label() + ">";
        });
}

}  // namespace vmthaw::bindings
