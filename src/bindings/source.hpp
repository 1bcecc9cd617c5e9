#pragma once

#include "bindings/bindings.hpp"
#include "source/page_source.hpp"

namespace vmthaw::bindings {

// True after close(), and in a child that inherited the source. Takes no lock and no GIL.
[[nodiscard]] bool is_closed(const PageSource& source) noexcept;

void register_layered_header(py::module_& module);
void register_layered_source(py::module_& module);
void register_python_source(py::module_& module);
void register_socket_source(py::module_& module);
void register_compressed_source(py::module_& module);
void register_cached_source(py::module_& module);

}  // namespace vmthaw::bindings
