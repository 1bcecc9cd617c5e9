#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <chrono>
#include <future>
#include <thread>

#include "base/thread.hpp"
#include "bindings/bindings.hpp"
#include "bindings/session.hpp"
#include "bindings/wait.hpp"
#include "handover/page_server.hpp"

// GIL and locking: every function that takes one of the server's locks, or waits, releases the GIL first. The server
// never calls Python: news wait in a ring behind event_fd() until somebody takes them.
namespace vmthaw::bindings {
namespace {

using Release = py::call_guard<py::gil_scoped_release>;
using RunArray = py::array_t<std::uint64_t, py::array::c_style | py::array::forcecast>;

// A caller's descriptor stays the caller's, whatever becomes of ours.
UniqueFd duplicate(int fd, const char* what) {
    UniqueFd held(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
    if (!held) {
        const int saved = errno;
        throw SystemError(saved, std::string("duplicating ") + what + " " + std::to_string(fd));
    }
    return held;
}

// Rows of (guest address, size). With the GIL held: it reads numpy's memory.
GuestRuns runs_of(const std::optional<RunArray>& rows) {
    if (!rows) {
        return {};
    }
    if (rows->ndim() != 2 || rows->shape(1) != 2) {
        throw ArgumentError("working_set must be an array of shape (n, 2): guest address and size in bytes");
    }
    std::vector<GuestRun> runs;
    const auto view = rows->unchecked<2>();
    runs.reserve(static_cast<std::size_t>(view.shape(0)));
    for (py::ssize_t i = 0; i < view.shape(0); ++i) {
        runs.push_back({view(i, 0), view(i, 1)});
    }
    const py::gil_scoped_release release;
    return make_guest_runs(std::move(runs));
}

std::shared_ptr<PageServer> make_server(const std::optional<std::string>& socket_path, std::optional<int> socket_fd,
                                        std::shared_ptr<PageSource> source, const PagerConfig& config,
                                        const MemoryLayout& layout, std::optional<unsigned> owner_uid,
                                        std::optional<unsigned> owner_gid, std::optional<unsigned> required_uid,
                                        double handover_timeout, std::vector<std::uint64_t> prewarm,
                                        const std::optional<RunArray>& working_set) {
    if (!(handover_timeout > 0 && handover_timeout <= 86400)) {
        throw ArgumentError("handover_timeout must be more than 0 and at most 86400 seconds");
    }
    PageServerOptions options;
    options.working_set = runs_of(working_set);
    const py::gil_scoped_release release;
    options.source = std::move(source);
    options.config = config;
    options.layout = layout;
    options.required_uid = required_uid;
    options.handover_timeout_ns = static_cast<std::uint64_t>(handover_timeout * 1e9);
    options.prewarm = std::move(prewarm);
    if (socket_fd) {
        options.listener = UnixListener::adopt(duplicate(*socket_fd, "the listening socket"));
    } else if (socket_path) {
        UnixListenerOptions listener;
        listener.owner_uid = owner_uid;
        listener.owner_gid = owner_gid;
        options.listener = UnixListener::create(*socket_path, listener);
    }
    return PageServer::create(std::move(options));
}

std::shared_ptr<PagerSession> adopt(PageServer& server, int fd, std::vector<Region> regions,
                                    std::shared_ptr<PageSource> source, std::optional<int> pid_fd, std::string label,
                                    const std::vector<std::string>& page_states) {
    std::vector<std::vector<std::uint8_t>> states;
    for (const std::string& pages : page_states) {
        states.emplace_back(pages.begin(), pages.end());
    }
    PidFd process;
    if (pid_fd) {
        process = PidFd::adopt(duplicate(*pid_fd, "the pidfd"));
    }
    return server.adopt(Userfaultfd::adopt(duplicate(fd, "the userfaultfd")), std::move(regions), std::move(source),
                        std::move(process), std::move(label), std::move(states));
}

// On a thread that never takes the GIL: a source that hangs (a dead network file system) must not hang the exit.
bool shut_down_within(double timeout) {
    auto done = std::make_shared<std::promise<void>>();
    std::future<void> ended = done->get_future();
    std::thread thread = start_thread("vmthaw-exit", [done] {
        Runtime::shutdown();
        done->set_value();
    });
    if (ended.wait_for(std::chrono::duration<double>(timeout)) == std::future_status::ready) {
        thread.join();
        return true;
    }
    thread.detach();
    return false;
}

}  // namespace

void register_handover(py::module_& module) {
    register_session(module);
    py::classh<PageServer>(module, "PageServer", "The core of vmthaw.PageServer: see there.")
        .def(py::init(&make_server), py::kw_only(), py::arg("socket_path"), py::arg("socket_fd"), py::arg("source"),
             py::arg("config"), py::arg("layout") = MemoryLayout::host(), py::arg("owner_uid") = py::none(),
             py::arg("owner_gid") = py::none(), py::arg("required_uid") = py::none(), py::arg("handover_timeout") = 5.0,
             py::arg("prewarm") = std::vector<std::uint64_t>{}, py::arg("working_set") = py::none())
        .def("start", &PageServer::start, Release())
        .def("adopt", &adopt, py::arg("fd"), py::arg("regions"), py::arg("source"), py::arg("pidfd"), py::arg("label"),
             py::arg("page_states"), Release())
        .def(
            "provide_source",
            [](PageServer& server, std::uint32_t session, std::shared_ptr<PageSource> source,
               const std::optional<RunArray>& working_set) {
                GuestRuns runs = runs_of(working_set);
                const py::gil_scoped_release release;
                server.provide_source(session, std::move(source), std::move(runs));
            },
            py::arg("session"), py::arg("source"), py::arg("working_set") = py::none())
        .def("refuse_source", &PageServer::refuse_source, py::arg("session"), py::arg("why"), Release())
        .def_property_readonly("sessions", unlocked(&PageServer::sessions))
        .def_property_readonly("ended_sessions", unlocked(&PageServer::ended_sessions))
        .def(
            "failures",
            [](const PageServer& server) {
                std::vector<std::tuple<std::uint64_t, std::uint32_t, std::string, std::string>> rows;
                for (const ServerFailure& failure : server.failures()) {
                    rows.emplace_back(failure.t_ns, failure.session, failure.text, failure.field);
                }
                return rows;
            },
            Release(), "(t_ns, session or 0, text, field) tuples; the last 256.")
        .def("waiting", &PageServer::waiting, Release(), "Labels of the VMs that wait for their source.")
        .def(
            "totals",
            [](const PageServer& server) {
                const ServerTotals totals = server.totals();
                return std::tuple(totals.stats, totals.refused, totals.failed);
            },
            Release(), "(stats of all sessions that ever were, hand-overs refused, sessions failed); never decreasing.")
        .def_property_readonly("session_count", unlocked(&PageServer::session_count))
        .def_property_readonly("socket_path", &PageServer::socket_path)
        .def_property_readonly("listening", unlocked(&PageServer::listening))
        .def("event_fd", &PageServer::event_fd, "Readable while events wait.")
        .def(
            "take_events",
            [](PageServer& server) {
                std::vector<std::tuple<std::uint64_t, std::uint32_t, SessionEventKind>> rows;
                for (const ServerEvent& event : server.take_events()) {
                    rows.emplace_back(event.t_ns, event.session, event.kind);
                }
                return rows;
            },
            Release(), "(t_ns, session, kind) tuples.")
        .def(
            "wait_ready",
            [](const std::shared_ptr<PageServer>& server, std::optional<double> timeout) {
                return wait_interruptible(timeout, [&](auto slice) { return server->wait_ready(slice); });
            },
            py::arg("timeout"))
        .def(
            "wait_ended",
            [](const std::shared_ptr<PageServer>& server, std::optional<double> timeout) {
                return wait_interruptible(timeout, [&](auto slice) { return server->wait_ended(slice); });
            },
            py::arg("timeout"))
        .def("stop_listening", &PageServer::stop_listening, Release())
        .def("close", &PageServer::close, Release());
    module.def(
        "_threads", [] { return Runtime::instance().threads(); }, Release(),
        "Threads of the process's runtime: the same for one server and for a thousand.");
    module.def(
        "_shutdown_runtime", &shut_down_within, py::arg("timeout"), Release(),
        "Ends the runtime's threads; for interpreter exit. False when one did not end within `timeout` seconds.");
}

}  // namespace vmthaw::bindings
