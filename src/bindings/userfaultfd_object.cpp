// GIL and locking: every system call here runs with the GIL released, fills included: a COPY may wait for the mmap lock
// of the target process, and a thread of ours that touches a missing page holds the GIL while it waits. Buffers stay
// exported for as long as the kernel reads from them. See UserfaultfdObject for close().
#include "bindings/userfaultfd_object.hpp"

#include <fcntl.h>
#include <poll.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/clock.hpp"
#include "bindings/userfaultfd_values.hpp"

namespace vmthaw::bindings {
namespace {

constexpr std::size_t kLargestBatch = 65536;

// A contiguous read-only export of a bytes-like object.
class ExportedBuffer {
public:
    explicit ExportedBuffer(const py::handle& object) {
        if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_SIMPLE) != 0) {
            throw py::error_already_set();
        }
    }
    ~ExportedBuffer() { PyBuffer_Release(&view_); }
    ExportedBuffer(const ExportedBuffer&) = delete;
    ExportedBuffer& operator=(const ExportedBuffer&) = delete;

    [[nodiscard]] const void* data() const noexcept { return view_.buf; }
    [[nodiscard]] std::uint64_t size() const noexcept { return static_cast<std::uint64_t>(view_.len); }

private:
    Py_buffer view_{};
};

template <typename Call>
FillOutcome released(const UserfaultfdObject& self, Call call) {
    const std::shared_ptr<const Userfaultfd> held = self.get();
    const py::gil_scoped_release release;
    return call(*held);
}

FillOutcome copy(const UserfaultfdObject& self, std::uint64_t address, const py::object& source,
                 std::optional<std::uint64_t> size, std::uint64_t mode) {
    if (PyLong_Check(source.ptr()) != 0) {
        if (!size) {
            throw ArgumentError("copy() from an integer address needs size=");
        }
        const auto source_address = source.cast<std::uintptr_t>();
        return released(self, [&](const Userfaultfd& userfaultfd) {
            // JUSTIFICATION: the caller names memory of this process by number; the kernel checks it (EFAULT).
            return userfaultfd.copy(address, reinterpret_cast<const void*>(source_address), *size, mode);
        });
    }
    const ExportedBuffer buffer(source);
    if (size && *size > buffer.size()) {
        throw ArgumentError("copy() of " + std::to_string(*size) + " bytes from a buffer of " +
                            std::to_string(buffer.size()));
    }
    return released(self, [&](const Userfaultfd& userfaultfd) {
        return userfaultfd.copy(address, buffer.data(), size.value_or(buffer.size()), mode);
    });
}

bool is_nonblocking(const Userfaultfd& userfaultfd) {
    return (check_errno(::fcntl(userfaultfd.fd(), F_GETFL), "fcntl(F_GETFL) on a userfaultfd") & O_NONBLOCK) != 0;
}

// Waits for a message. Runs without the GIL and takes it only for signal handlers (Ctrl-C).
void wait_readable(const Userfaultfd& userfaultfd, std::optional<double> timeout) {
    if (timeout && (std::isnan(*timeout) || *timeout < 0)) {
        throw ArgumentError("read(): timeout must be None or seconds, 0 or more");
    }
    constexpr double kLongestNs = 1e18;
    const std::uint64_t deadline_ns =
        timeout ? monotonic_ns() + static_cast<std::uint64_t>(std::min(*timeout * 1e9, kLongestNs))
                : std::numeric_limits<std::uint64_t>::max();
    for (;;) {
        const std::uint64_t now_ns = monotonic_ns();
        int wait_ms = -1;
        if (timeout) {
            const std::uint64_t left_ns = deadline_ns > now_ns ? deadline_ns - now_ns : 0;
            wait_ms = static_cast<int>(std::min<std::uint64_t>((left_ns + 999'999) / 1'000'000, 86'400'000));
        }
        pollfd entry{userfaultfd.fd(), POLLIN, 0};
        const int ready = ::poll(&entry, 1, wait_ms);
        const int saved = errno;
        if (ready > 0 || (ready == 0 && monotonic_ns() >= deadline_ns)) {
            return;
        }
        if (ready < 0 && saved != EINTR) {
            throw SystemError(saved, "poll of a userfaultfd");
        }
        if (ready < 0) {
            const py::gil_scoped_acquire acquire;
            if (PyErr_CheckSignals() != 0) {
                throw py::error_already_set();
            }
        }
    }
}

py::object read(const UserfaultfdObject& self, std::size_t max_messages, std::optional<double> timeout) {
    if (max_messages == 0 || max_messages > kLargestBatch) {
        throw ArgumentError("read(): max_messages must be 1 to " + std::to_string(kLargestBatch));
    }
    const std::shared_ptr<const Userfaultfd> held = self.get();
    // numpy comes first: once messages are read, nothing may fail that would lose them.
    const py::object dtype = message_dtype();
    py::array array(py::dtype::from_args(dtype), std::vector<py::ssize_t>{static_cast<py::ssize_t>(max_messages)});
    auto* const messages = static_cast<UffdMessage*>(array.mutable_data());
    ReadOutcome outcome;
    {
        const py::gil_scoped_release release;
        for (;;) {
            if (is_nonblocking(*held)) {
                wait_readable(*held, timeout);
            }
            outcome = held->read(std::span(messages, max_messages));
            if (outcome.errno_value != EINTR) {
                break;
            }
            const py::gil_scoped_acquire acquire;
            if (PyErr_CheckSignals() != 0) {
                throw py::error_already_set();
            }
        }
    }
    if (outcome.errno_value != 0 && outcome.errno_value != EAGAIN) {
        throw SystemError(outcome.errno_value, "read of a userfaultfd");
    }
    return array[py::slice(0, static_cast<py::ssize_t>(outcome.count), 1)];
}

int fileno(const UserfaultfdObject& self) { return self.get()->fd(); }

}  // namespace

void register_userfaultfd_object(py::module_& module) {
    py::classh<UserfaultfdObject>(
        module, "Userfaultfd",
        "One userfaultfd descriptor, from UserfaultfdFactory.create() or adopt(). A context manager.\n\n"
        "Addresses are host addresses in the process that made the descriptor, sizes are bytes; both multiples of the "
        "page size. Fills return a FillOutcome and raise only when the object is closed (StateError). All calls "
        "release "
        "the GIL and are safe from several threads. Closing the last descriptor while a thread waits for a page makes "
        "that thread read zeros. After fork() the child holds a duplicate, as of any descriptor.")
        .def_static(
            "adopt",
            [](int fd) {
                const py::gil_scoped_release release;
                return std::make_unique<UserfaultfdObject>(Userfaultfd::adopt(UniqueFd(fd)));
            },
            py::arg("fd"),
            "Take over a descriptor that another process sent: from here on it is closed by this object, or at once if "
            "it is refused. OSError (EINVAL) if it is no userfaultfd, or UFFDIO_API was never called on it.")
        .def("fileno", &fileno, "The descriptor's number; it stays owned by this object. StateError when closed.")
        .def(
            "detach",
            [](UserfaultfdObject& self) {
                // A duplicate, because a call of another thread may still be using the number.
                const int fd = self.get()->try_clone().release().release();
                self.close();
                return fd;
            },
            "Give the descriptor away: returns a number that the caller must close, and closes this object.")
        .def_property_readonly("closed", &UserfaultfdObject::is_closed, "Whether close() was called.")
        .def_property_readonly(
            "features", [](const UserfaultfdObject& self) { return to_python(self.get()->features()); },
            "The negotiated features (Feature).")
        .def("close", &UserfaultfdObject::close,
             "Close the descriptor, once calls of other threads have returned. Does not end a blocked read().")
        .def("__enter__", [](const py::object& self) { return self; })
        .def("__exit__", [](UserfaultfdObject& self, const py::args& /*exception*/) { self.close(); })
        .def(
            "try_clone",
            [](const UserfaultfdObject& self) { return std::make_unique<UserfaultfdObject>(self.get()->try_clone()); },
            "A second object with a duplicate of the descriptor. OSError (EMFILE).")
        .def(
            "set_nonblocking",
            [](const UserfaultfdObject& self, bool nonblocking) { self.get()->set_nonblocking(nonblocking); },
            py::arg("nonblocking"),
            "Set or clear O_NONBLOCK, for every duplicate too, those in other processes included. poll() on a blocking "
            "one says POLLERR.")
        .def(
            "register_range",
            [](const UserfaultfdObject& self, std::uint64_t address, std::uint64_t size, std::uint64_t modes) {
                const auto held = self.get();
                const py::gil_scoped_release release;
                return held->register_range(address, size, modes);
            },
            py::arg("address"), py::arg("size"), py::arg("modes") = kRegisterMissing,
            "Watch a range; `modes` is a sum of REGISTER_*. Returns the mask (RANGE_*) of calls that it allows. "
            "OSError: "
            "EBUSY another userfaultfd owns it, EPERM a read-only shared mapping, EINVAL unaligned, unmapped or a mode "
            "that this memory lacks, ENOMEM the process is gone.")
        .def(
            "unregister_range",
            [](const UserfaultfdObject& self, std::uint64_t address, std::uint64_t size) {
                const auto held = self.get();
                const py::gil_scoped_release release;
                held->unregister_range(address, size);
            },
            py::arg("address"), py::arg("size"),
            "Stop watching a range. A thread that waits for a page of it reads zeros. OSError as register_range().")
        .def("copy", &copy, py::arg("address"), py::arg("source"), py::arg("size") = py::none(), py::arg("mode") = 0,
             "Install pages with the bytes of `source`: a contiguous bytes-like object, or the integer address of "
             "memory "
             "of this process (then `size` is needed). `mode`: MODE_DONT_WAKE, MODE_COPY_WRITE_PROTECT.")
        .def(
            "zero",
            [](const UserfaultfdObject& self, std::uint64_t address, std::uint64_t size, std::uint64_t mode) {
                return released(self, [&](const Userfaultfd& held) { return held.zero(address, size, mode); });
            },
            py::arg("address"), py::arg("size"), py::arg("mode") = 0,
            "Install zero pages (not on hugetlb: copy zeros there). `mode`: MODE_DONT_WAKE.")
        .def(
            "continue_range",
            [](const UserfaultfdObject& self, std::uint64_t address, std::uint64_t size, std::uint64_t mode) {
                return released(self,
                                [&](const Userfaultfd& held) { return held.continue_range(address, size, mode); });
            },
            py::arg("address"), py::arg("size"), py::arg("mode") = 0,
            "Map the pages that the page cache already holds (REGISTER_MINOR ranges). FillStatus.bad_source: it holds "
            "none. `mode`: MODE_DONT_WAKE, MODE_COPY_WRITE_PROTECT.")
        .def(
            "poison",
            [](const UserfaultfdObject& self, std::uint64_t address, std::uint64_t size, std::uint64_t mode) {
                return released(self, [&](const Userfaultfd& held) { return held.poison(address, size, mode); });
            },
            py::arg("address"), py::arg("size"), py::arg("mode") = 0,
            "Make every touch of the range raise SIGBUS (Feature.poison). `mode`: MODE_DONT_WAKE.")
        .def(
            "move",
            [](const UserfaultfdObject& self, std::uint64_t address, std::uint64_t source_address, std::uint64_t size,
               std::uint64_t mode) {
                return released(
                    self, [&](const Userfaultfd& held) { return held.move(address, source_address, size, mode); });
            },
            py::arg("address"), py::arg("source_address"), py::arg("size"), py::arg("mode") = 0,
            "Move private anonymous pages within this process (Feature.move). `mode`: MODE_DONT_WAKE, "
            "MODE_MOVE_ALLOW_SOURCE_HOLES.")
        .def(
            "write_protect",
            [](const UserfaultfdObject& self, std::uint64_t address, std::uint64_t size, std::uint64_t mode) {
                return released(self, [&](const Userfaultfd& held) { return held.write_protect(address, size, mode); });
            },
            py::arg("address"), py::arg("size"), py::arg("mode") = kModeWriteProtect,
            "Protect a range (MODE_WRITE_PROTECT) or unprotect it and wake its writers (PROTECT_CLEAR, optionally with "
            "MODE_WRITE_PROTECT_DONT_WAKE). It reports no partial progress.")
        .def(
            "wake",
            [](const UserfaultfdObject& self, std::uint64_t address, std::uint64_t size) {
                const auto held = self.get();
                const py::gil_scoped_release release;
                check_returned(held->wake(address, size), "UFFDIO_WAKE");
            },
            py::arg("address"), py::arg("size"),
            "Let every thread that waits in the range fault again. OSError (EINVAL) for a bad range; a process that is "
            "gone is no error.")
        .def("read", &read, py::arg("max_messages") = 64, py::arg("timeout") = 0.0,
             "A batch of messages as a numpy structured array (message_dtype()); empty when none came within `timeout` "
             "seconds (None: for ever). On a blocking descriptor it waits for ever, whatever `timeout` says. Ctrl-C "
             "interrupts the wait. A `ufd` of a fork event is an open descriptor that the caller owns: adopt() it.");
}

}  // namespace vmthaw::bindings
