#include "base/log.hpp"

#include <poll.h>
#include <pybind11/stl.h>

#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "bindings/bindings.hpp"
#include "bindings/wait.hpp"

// GIL and locking: the log is lock-free, so nothing here needs to give the GIL up but _wait_readable, which waits.
// The one lock, around the interned component names, is only ever taken with the GIL held and takes no other.
namespace vmthaw::bindings {
namespace {

// Python's numbers for the same levels.
int to_logging(LogLevel level) {
    switch (level) {
        case LogLevel::debug:
            return 10;
        case LogLevel::info:
            return 20;
        case LogLevel::warning:
            return 30;
        case LogLevel::error:
            break;
    }
    return 40;
}

LogLevel from_logging(int level) {
    if (level <= 10) {
        return LogLevel::debug;
    }
    if (level <= 20) {
        return LogLevel::info;
    }
    return level <= 30 ? LogLevel::warning : LogLevel::error;
}

// The ring keeps the pointer, so names that come from Python live for ever.
const char* intern(const std::string& name) {
    static auto* const mutex = new std::mutex;
    static auto* const names = new std::set<std::string>;
    const std::lock_guard<std::mutex> lock(*mutex);
    return names->insert(name).first->c_str();
}

py::str decode(std::string_view text) {
    PyObject* decoded = PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "replace");
    if (decoded == nullptr) {
        throw py::error_already_set();
    }
    return py::reinterpret_steal<py::str>(decoded);
}

py::list drain_to_list(std::size_t max_lines) {
    std::vector<LogRecord> records;
    drain_log(records, max_lines);
    py::list lines;
    for (const LogRecord& record : records) {
        lines.append(py::make_tuple(record.t_ns, to_logging(record.level), record.component, decode(record.text_view()),
                                    record.truncated, decode(record.thread_name.data()), record.tid));
    }
    return lines;
}

bool wait_readable(int fd, std::optional<double> timeout_s) {
    return wait_interruptible(timeout_s, [fd](std::chrono::milliseconds slice) {
        pollfd poll_fd{fd, POLLIN, 0};
        return ::poll(&poll_fd, 1, static_cast<int>(slice.count())) > 0;
    });
}

}  // namespace

void register_log(py::module_& module) {
    module.def("drain_log", &drain_to_list, py::arg("max_lines"),
               "Takes at most `max_lines` waiting log lines out of the core's ring, oldest first, as tuples (t_ns on "
               "CLOCK_MONOTONIC, logging level, component, text, truncated, thread name, thread id). Never blocks. "
               "Lines that are left keep `log_fd()` readable.");
    module.def("log_fd", &log_fd,
               "The descriptor that is readable while log lines wait. The core owns it; a forked child has another. "
               "Raises OSError when it cannot be made.");
    module.def("log_dropped", &log_dropped, "Log lines lost so far because the ring was full.");
    module.def(
        "log_line",
        [](int level, const std::string& component, const std::string& text) {
            log_line(from_logging(level), intern(component), text);
        },
        py::arg("level"), py::arg("component"), py::arg("text"),
        "Writes a line to the core's ring at a level of Python's logging, as the core itself does. Never blocks; a "
        "full ring drops it and counts it. Component names are kept for ever.");
    module.def(
        "set_log_level", [](int level) { set_log_level(from_logging(level)); }, py::arg("level"),
        "Keeps lines below this level of Python's logging out of the ring. Any thread, at any time.");
    module.def(
        "log_level", [] { return to_logging(log_level()); },
        "The level of Python's logging below which the core writes no lines.");
    module.def("_wait_readable", &wait_readable, py::arg("fd"), py::arg("timeout_s") = py::none(),
               "Waits until a descriptor is readable (True) or `timeout_s` seconds are over (False; None waits for "
               "ever). The GIL is released meanwhile, and signal handlers run at least every 50 ms.");
}

}  // namespace vmthaw::bindings
