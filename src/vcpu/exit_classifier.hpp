#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "vcpu/exit.hpp"

namespace vmthaw {

// Which answers: `lenient` (also called `ktstr`) passes over whatever is odd, `strict` stops at it. Both stop a VM
// whose exit KVM itself got wrong.
enum class ExitProfile : std::uint8_t { lenient, strict };

// Where the action depends on a port: the keyboard controller's command port, and the command that resets the machine.
inline constexpr std::uint16_t kI8042CommandPort = 0x64;
inline constexpr std::uint8_t kI8042Reset = 0xFE;

// decode_exit() with the action. Pure: no KVM, nothing done, either architecture on any host.
[[nodiscard]] Exit classify_exit(ExitProfile profile, GuestArch arch, int result, int errno_value,
                                 std::span<const std::byte> run_bytes) noexcept;

// The action alone, for an exit that was decoded. `io_data`: the elements of a port access.
[[nodiscard]] ExitAction exit_action(ExitProfile profile, GuestArch arch, const Exit& exit,
                                     std::span<const std::byte> io_data) noexcept;

// The elements of a port access, where they lie within `run_bytes`; else nothing, and for every other exit.
[[nodiscard]] std::span<const std::byte> io_data_of(const Exit& exit, std::span<const std::byte> run_bytes) noexcept;

}  // namespace vmthaw
