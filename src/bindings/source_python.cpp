#include <pybind11/stl.h>

#include <chrono>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "base/error.hpp"
#include "bindings/buffer_view.hpp"
#include "bindings/source.hpp"
#include "source/python/python_source.hpp"
#include "source/python/request_queue.hpp"

// GIL and locking: RequestQueue takes a C++ lock, so every call into it releases the GIL first, and no lock is held
// when it is taken again. Only threads that Python started call next_requests(), complete() and fail().
namespace vmthaw::bindings {
namespace {

using Milliseconds = std::chrono::milliseconds;

constexpr std::size_t kMostRequests = 4096;

Milliseconds milliseconds_of(double seconds, const char* what) {
    constexpr double kLongest = 1e6;
    if (std::isnan(seconds) || seconds < 0) {
        throw ArgumentError(std::string(what) + " must be a number of seconds, 0 or more");
    }
    return std::chrono::ceil<Milliseconds>(std::chrono::duration<double>(std::min(seconds, kLongest)));
}

std::shared_ptr<PythonSource> make_source(std::uint64_t size, const std::optional<std::vector<ExtentRow>>& rows,
                                          const std::string& name, double timeout, std::size_t max_queued) {
    return std::make_shared<PythonSource>(size, extents_of(rows), name, milliseconds_of(timeout, "timeout"),
                                          max_queued);
}

using RequestRow = std::tuple<std::uint64_t, std::uint64_t, std::uint64_t>;

std::vector<RequestRow> next_requests(RequestQueue& queue, double timeout, std::size_t most) {
    const Milliseconds limit = milliseconds_of(timeout, "timeout");
    if (most == 0 || most > kMostRequests) {
        throw ArgumentError("a batch is of 1 to " + std::to_string(kMostRequests) + " reads, not " +
                            std::to_string(most));
    }
    std::vector<RequestQueue::Request> requests(most);
    {
        const py::gil_scoped_release release;
        requests.resize(queue.next(limit, requests));
    }
    std::vector<RequestRow> rows;
    for (const auto& [id, offset, size] : requests) {
        rows.emplace_back(id, offset, size);
    }
    return rows;
}

bool complete(RequestQueue& queue, std::uint64_t id, const py::object& data) {
    const BufferView view(data);
    const py::gil_scoped_release release;
    return queue.complete(id, view.bytes());
}

}  // namespace

void register_python_source(py::module_& module) {
    using NoGil = py::call_guard<py::gil_scoped_release>;
    py::classh<RequestQueue>(module, "RequestQueue", py::release_gil_before_calling_cpp_dtor(),
                             "Reads that wait for Python threads to answer them. Every method releases the GIL.")
        .def(
            "next_requests", &next_requests, py::arg("timeout"), py::arg("most"),
            "Waits for a read, at most `timeout` seconds, and takes what waits, the oldest first, at most `most` (1 to "
            "4096): rows (id, offset, size). Empty at the time-out and when closed. Call it on threads that Python "
            "started.")
        .def("complete", &complete, py::arg("id"), py::arg("data"),
             "Answers a read with a bytes-like object, which is copied. Fewer bytes than asked are a short read, more "
             "an EMSGSIZE error of that read. False when the reader has given up. Raises TypeError or BufferError when "
             "`data` is not contiguous bytes.")
        .def("fail", &RequestQueue::fail, py::arg("id"), py::arg("errno"), py::arg("why") = "", NoGil(),
             "Answers a read with an errno; `why` stands in the errors of reads that fail with it. False when the "
             "reader has given up.")
        .def("close", &RequestQueue::close, NoGil(), "Ends every wait on either side. Idempotent.")
        .def_property_readonly("waiting", py::cpp_function(&RequestQueue::waiting, NoGil()),
                               "How many reads nobody has taken yet.")
        .def_property_readonly("closed", py::cpp_function(&RequestQueue::is_closed, NoGil()),
                               "True once closed, and in a child that inherited it by fork().");
    py::classh<PythonSource, PageSource>(module, "PythonSource", py::release_gil_before_calling_cpp_dtor(),
                                         "The core's half of vmthaw.PythonSource, which also has the threads.")
        .def(py::init(&make_source), py::arg("size"), py::arg("extents"), py::arg("name"), py::arg("timeout"),
             py::arg("max_queued"),
             "`extents`: None, or rows (offset, size, kind). `timeout` in seconds. Raises VmthawValueError.")
        // By value and without the default policy for properties, which would let the queue keep the source alive:
        // the threads hold the queue, and would then never see its end.
        .def_property_readonly("requests",
                               py::cpp_function([](const PythonSource& source) { return source.requests(); }),
                               "The queue that Python threads serve. It does not keep the source alive.");
}

}  // namespace vmthaw::bindings
