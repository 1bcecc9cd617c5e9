#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <span>
#include <string>
#include <string_view>

#include "bindings/python_fs.hpp"
#include "bindings/text.hpp"

// GIL: taken here and nowhere else in PythonFs; everything before and after runs without it.
namespace vmthaw::bindings {

// What an argument becomes in Python. Names that are no UTF-8 come as os.fsdecode() would have them.
inline py::object fs_argument(const std::string& text) { return text_of(text); }
inline py::object fs_argument(std::string_view text) { return text_of(std::string(text)); }
inline py::object fs_argument(std::uint64_t number) { return py::int_(number); }
inline py::object fs_argument(std::span<const std::byte> bytes) {
    return py::bytes(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

// The bytes of a str, a path or bytes.
inline std::string fs_bytes(const py::handle& text) {
    PyObject* encoded = nullptr;
    if (PyUnicode_FSConverter(text.ptr(), static_cast<void*>(&encoded)) == 0) {
        throw py::error_already_set();
    }
    return py::reinterpret_steal<py::bytes>(encoded);
}

// As much of a buffer as there is room for; the bytes copied.
[[nodiscard]] std::size_t copy_fs_bytes(const py::handle& buffer, std::span<std::byte> out);
[[nodiscard]] FuseAttr attributes_from(const py::handle& answer, std::uint64_t node);

template <typename Use, typename... Arguments>
int PythonFs::ask(const char* operation, const FuseCaller& caller, Use use, const Arguments&... arguments) noexcept {
    if (Py_IsInitialized() == 0) {
        return ENOTCONN;
    }
    try {
        const py::gil_scoped_acquire gil;
        try {
            const auto call = call_.get();
            const py::tuple answer =
                call(operation, caller.unique, caller.uid, caller.gid, caller.pid, fs_argument(arguments)...);
            const int error = answer[0].template cast<int>();
            if (error == 0) {
                use(py::handle(answer[1]));
            }
            return error;
        } catch (py::error_already_set& error) {
            error.discard_as_unraisable(operation);
            return EIO;
        } catch (const std::exception&) {
            return EIO;
        }
    } catch (...) {
        return EIO;  // no memory for the GIL's state
    }
}

template <typename... Arguments>
int PythonFs::tell(const char* operation, const FuseCaller& caller, const Arguments&... arguments) noexcept {
    return ask(operation, caller, [](const py::handle&) {}, arguments...);
}

template <typename... Arguments>
int PythonFs::make(const char* operation, const FuseCaller& caller, std::uint64_t parent, std::string_view name,
                   NodeEntry& entry, const Arguments&... arguments) noexcept {
    std::string path;
    if (const int error = nodes_.path_of(parent, name, path); error != 0) {
        return error;
    }
    int error = ask(
        operation, caller, [&](const py::handle& answer) { entry.attr = attributes_from(answer, 0); }, path,
        arguments...);
    if (error == 0) {
        error = nodes_.give(parent, name, entry.node);
    }
    entry.generation = 1;
    if (error == 0 && entry.attr.ino == 0) {
        entry.attr.ino = entry.node;
    }
    return error;
}

}  // namespace vmthaw::bindings
