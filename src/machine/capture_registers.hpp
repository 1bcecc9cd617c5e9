#pragma once

#include <cstdint>
#include <optional>

#include "kvm/vcpu.hpp"
#include "vcpu/register_snapshot.hpp"

namespace vmthaw {

// All on the vCPU's own thread, while it does not run; none throws, allocates or logs. Any failing ioctl that x86-64
// needs, or of PC or SP on aarch64, gives nothing.

// Drains first: before that an IN or an MMIO read has not happened yet as far as the registers know. Gives nothing also
// when the drain fails. After an exit SHUTDOWN the values are worth nothing (see Vcpu::has_shut_down).
[[nodiscard]] std::optional<RegisterSnapshot> capture_registers(Vcpu& vcpu) noexcept;
// The same of a vCPU that has been drained.
[[nodiscard]] std::optional<RegisterSnapshot> read_registers(const Vcpu& vcpu) noexcept;

// x86-64: CR3. aarch64: TTBR1_EL1.
[[nodiscard]] std::optional<std::uint64_t> read_page_table_root(const Vcpu& vcpu) noexcept;
// aarch64 only; nothing on x86-64.
[[nodiscard]] std::optional<std::uint64_t> read_tcr_el1(const Vcpu& vcpu) noexcept;

}  // namespace vmthaw
