#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace vmthaw {

// Where a vCPU is and whose memory it sees. x86-64: RIP, RSP, CR3 as it is. aarch64: PC, SP_EL1, TTBR1_EL1 (0 when it
// could not be read), and TTBR0_EL1 and TCR_EL1 if they could. A plain value.
struct RegisterSnapshot {
    std::uint64_t instruction_pointer = 0;
    std::uint64_t stack_pointer = 0;
    std::uint64_t page_table_root = 0;
    std::optional<std::uint64_t> user_page_table_root;
    std::optional<std::uint64_t> tcr_el1;

    bool operator==(const RegisterSnapshot&) const = default;

    // "ip=0x%016x sp=0x%016x ptroot=0x%016x", then " uptroot=0x%016x" if there is one. TCR is never shown.
    [[nodiscard]] std::string to_text() const;
    // One object whose keys are the fields' names; absent fields are left out.
    [[nodiscard]] std::string to_json() const;
    // Also of other programs' objects: unknown keys are passed over, an optional field may be missing or null. Throws
    // ArgumentError that names the field.
    [[nodiscard]] static RegisterSnapshot from_json(std::string_view text);
};

// The numbers of aarch64's registers for KVM_GET_ONE_REG. Source: arch/arm64/include/uapi/asm/kvm.h; core registers
// count in 32-bit words of struct kvm_regs, system registers pack as (op0<<14)|(op1<<11)|(CRn<<7)|(CRm<<3)|op2.
constexpr std::uint64_t aarch64_system_register(std::uint64_t op0, std::uint64_t op1, std::uint64_t crn,
                                                std::uint64_t crm, std::uint64_t op2) noexcept {
    return 0x6030000000130000 | op0 << 14U | op1 << 11U | crn << 7U | crm << 3U | op2;
}
inline constexpr std::uint64_t kRegisterPc = 0x6030000000100040;
inline constexpr std::uint64_t kRegisterSpEl1 = 0x6030000000100044;
inline constexpr std::uint64_t kRegisterTtbr0 = aarch64_system_register(3, 0, 2, 0, 0);
inline constexpr std::uint64_t kRegisterTtbr1 = aarch64_system_register(3, 0, 2, 0, 1);
inline constexpr std::uint64_t kRegisterTcr = aarch64_system_register(3, 0, 2, 0, 2);

// The snapshot of an aarch64 vCPU. `read(number)` gives a register, or nothing when it cannot be read; without PC or SP
// there is no snapshot.
template <typename Read>
[[nodiscard]] std::optional<RegisterSnapshot> aarch64_snapshot(const Read& read) {
    const std::optional<std::uint64_t> pc = read(kRegisterPc);
    const std::optional<std::uint64_t> sp = read(kRegisterSpEl1);
    if (!pc || !sp) {
        return std::nullopt;
    }
    return RegisterSnapshot{*pc, *sp, read(kRegisterTtbr1).value_or(0), read(kRegisterTtbr0), read(kRegisterTcr)};
}

}  // namespace vmthaw
