#pragma once

#include <cstdint>

namespace vmthaw {

// Which tier of a page source answered; `none` when nothing was read. Sources say it, trace records carry it.
enum class SourceTier : std::uint8_t { none, zero, mapped, file, network, python };

}  // namespace vmthaw
