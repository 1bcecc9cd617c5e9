#pragma once

#include <cstddef>
#include <span>

namespace vmthaw::payload {

// The guest's program, a flat binary to be loaded at kCodeAddress. Empty where it was not built (hosts other than
// x86-64).
[[nodiscard]] std::span<const std::byte> payload_image() noexcept;

}  // namespace vmthaw::payload
