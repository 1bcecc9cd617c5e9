#pragma once

#include <pybind11/pybind11.h>

#include <string>

namespace vmthaw::bindings {

// As Python reads file names: bytes that are no UTF-8 survive as surrogates. GIL held.
[[nodiscard]] inline pybind11::str text_of(const std::string& text) {
    PyObject* decoded = PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "surrogateescape");
    if (decoded == nullptr) {
        throw pybind11::error_already_set();
    }
    return pybind11::reinterpret_steal<pybind11::str>(decoded);
}

// What a notebook shows of `self`: by a function of vmthaw._html, which is loaded when it is wanted. GIL held.
[[nodiscard]] inline pybind11::object html_of(const pybind11::object& self, const char* function) {
    return pybind11::module_::import("vmthaw._html").attr(function)(self);
}

}  // namespace vmthaw::bindings
