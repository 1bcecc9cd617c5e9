#include <exception>
#include <string>
#include <variant>

#include "base/error.hpp"
#include "bindings/bindings.hpp"

// GIL: the translator runs with it held, as pybind11 calls it.
namespace vmthaw::bindings {
namespace {

void raise(const Error& error) {
    const py::module_ errors = py::module_::import("vmthaw.errors");
    py::object exception;
    if (const auto* system = dynamic_cast<const SystemError*>(&error)) {
        const py::object cls = errors.attr("os_error_class")(system->errno_value());
        exception = cls(system->errno_value(), error.what());
    } else {
        exception = errors.attr(error.class_name().c_str())(error.what());
    }
    for (const auto& [name, value] : error.fields()) {
        if (name == "errno" && py::isinstance(exception, py::module_::import("builtins").attr("OSError"))) {
            continue;  // the constructor took it
        }
        std::visit([&](const auto& held) { exception.attr(name.c_str()) = py::cast(held); }, value);
    }
    PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(exception.ptr())), exception.ptr());
}

}  // namespace

void register_errors(py::module_& /*module*/) {
    py::register_local_exception_translator([](std::exception_ptr pointer) {
        try {
            if (pointer) {
                std::rethrow_exception(pointer);
            }
        } catch (const Error& error) {
            raise(error);
        }
    });
}

}  // namespace vmthaw::bindings
