#include <cstdint>
#include <exception>
#include <optional>
#include <string>
#include <variant>

#include <pybind11/stl.h>

#include "base/error.hpp"
#include "bindings/bindings.hpp"
#include "bindings/text.hpp"

// GIL: the translator runs with it held, as pybind11 calls it.
namespace vmthaw::bindings {
namespace {

void raise(const Error& error) {
    const py::module_ errors = py::module_::import("vmthaw.errors");
    py::object exception;
    if (const auto* system = dynamic_cast<const SystemError*>(&error)) {
        const py::object cls = errors.attr("os_error_class")(system->errno_value());
        exception = cls(system->errno_value(), text_of(error.what()));
    } else {
        exception = errors.attr(error.class_name().c_str())(text_of(error.what()));
    }
    for (const auto& [name, value] : error.fields()) {
        if (name == "errno" && py::isinstance(exception, py::module_::import("builtins").attr("OSError"))) {
            continue;  // the constructor took it
        }
        if (const auto* text = std::get_if<std::string>(&value)) {
            exception.attr(name.c_str()) = text_of(*text);
        } else {
            // NOLINTNEXTLINE(clang-analyzer-core.CallAndMessage): the analyzer loses sight of the object in the lambda
            std::visit([&](const auto& held) { exception.attr(name.c_str()) = py::cast(held); }, value);
        }
    }
    PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(exception.ptr())), exception.ptr());
}

[[noreturn]] void raise_system_error(int errno_value, const std::string& operation, const std::string& remedy,
                                     std::optional<std::uint64_t> address) {
    throw SystemError(errno_value, operation, remedy, address);
}

}  // namespace

void register_errors(py::module_& module) {
    // Now, not at the first error: that one may be that no file can be opened.
    py::module_::import("vmthaw.errors");
    py::register_local_exception_translator(
        [](std::exception_ptr pointer) {  // NOLINT(performance-unnecessary-value-param): pybind11 says how
            try {
                if (pointer) {
                    std::rethrow_exception(pointer);
                }
            } catch (const Error& error) {
                raise(error);
            }
        });
    module.def("_raise_system_error", &raise_system_error, py::arg("errno"), py::arg("operation"),
               py::arg("remedy") = "", py::arg("address") = py::none(),
               "Raises what a failed system call with this errno raises; never returns. For tests of the translation.");
}

}  // namespace vmthaw::bindings
