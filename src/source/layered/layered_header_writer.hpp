#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "source/layered/layered_header.hpp"

namespace vmthaw {

// The bytes of the header in `version`, whatever its own is; it is checked as that version first. Versions 1 to 3 have
// no place for what is known of builds: sizes and checksums are left out, a compressed build is refused. Throws
// Error(LayeredHeaderError).
[[nodiscard]] std::vector<std::byte> write_layered_header(LayeredHeader header, std::uint16_t version);

}  // namespace vmthaw
