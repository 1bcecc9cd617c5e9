#pragma once

#include <cstddef>
#include <span>

#include "source/layered/layered_header.hpp"

namespace vmthaw {

// A header of any version, checked (check_layered_header) and its gaps filled with nil mappings. Every byte is
// untrusted: sizes are held against what is there before memory is asked for. Throws Error(LayeredHeaderError), whose
// `field` names what is wrong, or bad_alloc.
[[nodiscard]] LayeredHeader read_layered_header(std::span<const std::byte> bytes);

}  // namespace vmthaw
