#pragma once

#include <string>

#include "base/error.hpp"
#include "bindings/bindings.hpp"

namespace vmthaw::bindings {

// A Python object that C++ calls: made with the GIL held, let go of by any thread, which takes the GIL for it. After
// the interpreter's end it stays.
class CalleeReference {
public:
    explicit CalleeReference(py::object object) noexcept : object_(object.release().ptr()) {}
    CalleeReference(const CalleeReference&) = delete;
    CalleeReference& operator=(const CalleeReference&) = delete;
    ~CalleeReference() {
        if (Py_IsInitialized() == 0) {
            return;
        }
        try {
            const py::gil_scoped_acquire gil;
            Py_DECREF(object_);
        } catch (...) {
            return;  // no thread state to be had: the object stays
        }
    }

    // With the GIL held.
    [[nodiscard]] py::object get() const { return py::reinterpret_borrow<py::object>(object_); }

private:
    PyObject* object_;
};

// ArgumentError unless the object has the method. With the GIL held.
inline void demand_method(const py::object& object, const char* method, const char* what) {
    if (!py::hasattr(object, method) || PyCallable_Check(object.attr(method).ptr()) == 0) {
        throw ArgumentError(std::string(py::str(py::type::of(object).attr("__name__"))) + " is no " + what +
                            ": it has no method " + method);
    }
}

}  // namespace vmthaw::bindings
