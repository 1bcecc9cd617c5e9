#pragma once

#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "bindings/bindings.hpp"
#include "source/page_source.hpp"

namespace vmthaw::bindings {

// True after close(), and in a child that inherited the source. Takes no lock and no GIL.
[[nodiscard]] bool is_closed(const PageSource& source) noexcept;

// (offset, size, kind): an extent as Python gives it.
using ExtentRow = std::tuple<std::uint64_t, std::uint64_t, std::uint8_t>;
// Empty for None; an empty list or a kind that there is not is an ArgumentError.
[[nodiscard]] std::vector<Extent> extents_of(const std::optional<std::vector<ExtentRow>>& rows);

void register_layered_header(py::module_& module);
void register_layered_source(py::module_& module);
void register_python_source(py::module_& module);
void register_socket_source(py::module_& module);
void register_compressed_source(py::module_& module);
void register_cached_source(py::module_& module);

}  // namespace vmthaw::bindings
