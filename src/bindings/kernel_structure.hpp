#pragma once

#include <cstring>
#include <string>
#include <string_view>

#include "base/error.hpp"
#include "bindings/bindings.hpp"

// The kernel's structures, as Python has them: bytes. GIL: held on entry and return, released for the call.
namespace vmthaw::bindings {

template <typename Get>
py::bytes structure_bytes(const Get& get) {
    const auto value = [&get] {
        const py::gil_scoped_release release;
        return get();
    }();
    return {reinterpret_cast<const char*>(&value), sizeof value};
}

// Throws ArgumentError for another size.
template <typename Value, typename Set>
void set_structure(const py::bytes& data, const Set& set) {
    const auto text = static_cast<std::string_view>(data);
    Value value{};
    if (text.size() != sizeof value) {
        throw ArgumentError("the kernel's structure has " + std::to_string(sizeof value) + " bytes, not " +
                            std::to_string(text.size()));
    }
    std::memcpy(&value, text.data(), sizeof value);
    const py::gil_scoped_release release;
    set(value);
}

}  // namespace vmthaw::bindings
