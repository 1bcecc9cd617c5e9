#pragma once

#include <cstdint>

// Where the standard devices lie: the PC's ports, and windows of MMIO that guests are told of by their device tree,
// ACPI or command line.
namespace vmthaw {

inline constexpr std::uint64_t kLastPort = 0xFFFF;
inline constexpr std::uint64_t kLastMmioAddress =
    (std::uint64_t{1} << 52U) - 1;  // of either architecture's physical ones

inline constexpr std::uint64_t kX86Com1Port = 0x3F8;
inline constexpr std::uint64_t kX86Com2Port = 0x2F8;
inline constexpr std::uint64_t kX86SerialPorts = 8;
inline constexpr std::uint64_t kX86KeyboardDataPort = 0x60;
inline constexpr std::uint64_t kX86KeyboardCommandPort = 0x64;

inline constexpr std::uint64_t kMmioWindowBytes = 0x1000;
inline constexpr std::uint64_t kX86ConsoleAddress = 0xC0000000;
inline constexpr std::uint64_t kX86BlockAddress = 0xC0001000;
inline constexpr std::uint64_t kX86NetAddress = 0xC0002000;
inline constexpr std::uint64_t kAarch64Com1Address = 0x09000000;
inline constexpr std::uint64_t kAarch64Com2Address = 0x09001000;
inline constexpr std::uint64_t kAarch64ConsoleAddress = 0x09002000;
inline constexpr std::uint64_t kAarch64BlockAddress = 0x09003000;
inline constexpr std::uint64_t kAarch64NetAddress = 0x09004000;

}  // namespace vmthaw
