#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kvm/vm.hpp"

namespace vmthaw {

// What an x86-64 VM holds beside its vCPUs.
enum class VmPart : std::uint32_t { pic_master, pic_slave, ioapic, pit, clock };
inline constexpr std::size_t kVmParts = 5;

[[nodiscard]] const char* vm_part_name(VmPart part) noexcept;
// The kernel's structure, or nothing: where the VM has no such part.
[[nodiscard]] bool is_vm_part_size(VmPart part, std::uint64_t size_bytes) noexcept;

// Each part as the kernel's structure has it, in bytes; empty: the VM has none.
struct VmState {
    std::array<std::vector<std::byte>, kVmParts> parts;

    [[nodiscard]] std::vector<std::byte>& part(VmPart which) { return parts[static_cast<std::size_t>(which)]; }
    [[nodiscard]] const std::vector<std::byte>& part(VmPart which) const {
        return parts[static_cast<std::size_t>(which)];
    }
    [[nodiscard]] bool has_irqchip() const noexcept { return !parts[0].empty(); }
    bool operator==(const VmState&) const = default;
};

// Not while a vCPU runs. restore_vm() wants a VM with the same parts, and comes after the vCPUs. Throw SystemError,
// ArgumentError.
[[nodiscard]] VmState capture_vm(const Vm& vm, bool has_irqchip);
void restore_vm(const Vm& vm, const VmState& state);

}  // namespace vmthaw
