#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace vmthaw {

// One field of a payload: `count` numbers of `size` bytes each, little-endian, one after the other.
struct ExitField {
    const char* name;
    std::uint16_t offset;  // from the start of struct kvm_run
    std::uint8_t size_bytes;
    std::uint8_t count = 1;
};

// The fields of a reason that has no structure of its own in vcpu/exit.hpp, as include/uapi/linux/kvm.h lays them out;
// empty for one that carries nothing, nullopt for one that is not known or has a structure. `run_bytes` (at least the
// first 288 of struct kvm_run) choose among unions. Static data; any thread.
[[nodiscard]] std::optional<std::span<const ExitField>> exit_fields(std::uint32_t reason,
                                                                    std::span<const std::byte> run_bytes) noexcept;

}  // namespace vmthaw
