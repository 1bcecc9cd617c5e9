#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "vcpu/exit.hpp"
#include "vcpu/page_walk.hpp"

namespace vmthaw {

using RegisterBytes = std::vector<std::byte>;  // little endian, as wide as the register

struct NamedRegister {
    std::string name;
    RegisterBytes value;
    bool operator==(const NamedRegister&) const = default;
};

// Everything that a vCPU holds, by name, in the order of its architecture. A plain value.
//
// x86-64: "rax".. "rip", "rflags", "cs.base" and the like, "cr0".., "efer", "dr0".., "fcw".., "st0".., "xmm0"..,
// "ymm0h".., "xcr0", "msr.0xc0000080".., "mp_state", "events". aarch64: "x0".., "sp", "pc", "pstate", "v0"..,
// "s3_0_c2_c0_1".. and "reg.0x..." for what has no name here.
struct FullRegisters {
    GuestArch arch = GuestArch::x86_64;
    // The last exit was SHUTDOWN, after which a back end may have reset the registers: they tell nothing.
    bool after_shutdown = false;
    std::vector<NamedRegister> registers;
    // x86-64: what XSAVE writes without compaction, as far as XCR0 allows the guest any of it; its first 512 bytes are
    // FXSAVE's. Else empty.
    RegisterBytes xsave;

    [[nodiscard]] const NamedRegister* find(std::string_view name) const noexcept;
    // Registers of up to 8 bytes. Throws ArgumentError that names what is missing.
    [[nodiscard]] std::uint64_t number(std::string_view name) const;
    // Throws ArgumentError.
    [[nodiscard]] PagingState paging_state() const;
};

struct RegisterDifference {
    std::string name;
    std::optional<RegisterBytes> before, after;  // nothing where only the other capture has it
};
// What differs, in the order of `before`, then what only `after` has. Throws ArgumentError for two architectures.
[[nodiscard]] std::vector<RegisterDifference> diff(const FullRegisters& before, const FullRegisters& after);

// "x" and 7: "x7".
[[nodiscard]] std::string numbered(const char* prefix, std::uint64_t number);
// The name of a register by its number in KVM_GET_REG_LIST.
[[nodiscard]] std::string aarch64_register_name(std::uint64_t id);

}  // namespace vmthaw
