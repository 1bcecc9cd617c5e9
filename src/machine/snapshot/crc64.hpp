#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace vmthaw {

// CRC-64/XZ (ECMA-182, reflected, all ones before and after): it sees every burst of up to 64 bits.
[[nodiscard]] std::uint64_t crc64(std::span<const std::byte> bytes) noexcept;

}  // namespace vmthaw
