#include "vcpu/full_registers.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <unordered_map>

#include "base/error.hpp"

namespace vmthaw {

const NamedRegister* FullRegisters::find(std::string_view name) const noexcept {
    const auto found = std::find_if(registers.begin(), registers.end(),
                                    [&](const NamedRegister& candidate) { return candidate.name == name; });
    return found == registers.end() ? nullptr : &*found;
}

std::uint64_t FullRegisters::number(std::string_view name) const {
    const NamedRegister* const found = find(name);
    std::uint64_t value = 0;
    if (found == nullptr || found->value.size() > sizeof value) {
        throw ArgumentError("the capture has no register " + std::string(name) + " of up to 8 bytes");
    }
    if (!found->value.empty()) {
        std::memcpy(&value, found->value.data(), found->value.size());
    }
    return value;
}

PagingState FullRegisters::paging_state() const {
    PagingState state;
    state.arch = arch;
    if (arch == GuestArch::x86_64) {
        state.cr0 = number("cr0");
        state.cr3 = number("cr3");
        state.cr4 = number("cr4");
        state.efer = number("efer");
    } else {
        state.ttbr0 = number("s3_0_c2_c0_0");
        state.ttbr1 = number("s3_0_c2_c0_1");
        state.tcr = number("s3_0_c2_c0_2");
        state.is_mmu_on = (number("s3_0_c1_c0_0") & 1U) != 0;  // SCTLR_EL1.M
    }
    return state;
}

std::vector<RegisterDifference> diff(const FullRegisters& before, const FullRegisters& after) {
    if (before.arch != after.arch) {
        throw ArgumentError("captures of two architectures cannot be compared");
    }
    std::unordered_map<std::string_view, const RegisterBytes*> left;
    for (const NamedRegister& entry : after.registers) {
        left.emplace(entry.name, &entry.value);
    }
    std::vector<RegisterDifference> found;
    for (const NamedRegister& entry : before.registers) {
        const auto node = left.extract(entry.name);
        if (node.empty()) {
            found.push_back({entry.name, entry.value, std::nullopt});
        } else if (*node.mapped() != entry.value) {
            found.push_back({entry.name, entry.value, *node.mapped()});
        }
    }
    for (const NamedRegister& entry : after.registers) {
        if (left.contains(entry.name)) {
            found.push_back({entry.name, std::nullopt, entry.value});
        }
    }
    return found;
}

std::string numbered(const char* prefix, std::uint64_t number) {
    return std::string(prefix).append(std::to_string(number));
}

std::string aarch64_register_name(std::uint64_t id) {
    constexpr std::uint64_t kSize = 0x00F0'0000'0000'0000;
    constexpr std::uint64_t kKind = 0x6000'0000'0010'0000;  // core
    constexpr std::uint64_t kSystem = 0x6000'0000'0013'0000;
    const std::uint64_t kind = id & ~kSize & ~std::uint64_t{0xFFFF};
    const std::uint64_t low = id & 0xFFFFU;
    if (kind == kSystem) {
        return numbered("s", low >> 14U)
            .append(numbered("_", low >> 11U & 7U))
            .append(numbered("_c", low >> 7U & 15U))
            .append(numbered("_c", low >> 3U & 15U))
            .append(numbered("_", low & 7U));
    }
    if (kind == kKind) {
        // In 32-bit words of struct kvm_regs: user_pt_regs, sp_el1, elr_el1, five SPSRs, padding, user_fpsimd_state.
        constexpr std::array<const char*, 6> kAfterX30{"sp", "pc", "pstate", "sp_el1", "elr_el1", "spsr_el1"};
        constexpr std::array<const char*, 4> kSpsr{"spsr_abt", "spsr_und", "spsr_irq", "spsr_fiq"};
        if (low <= 60 && low % 2 == 0) {
            return numbered("x", low / 2);
        }
        if (low >= 0x3E && low <= 0x48 && low % 2 == 0) {
            return kAfterX30.at((low - 0x3E) / 2);
        }
        if (low >= 0x4A && low <= 0x50 && low % 2 == 0) {
            return kSpsr.at((low - 0x4A) / 2);
        }
        if (low >= 0x54 && low < 0xD4 && low % 4 == 0) {
            return numbered("v", (low - 0x54) / 4);
        }
        if (low == 0xD4 || low == 0xD5) {
            return low == 0xD4 ? "fpsr" : "fpcr";
        }
    }
    return "reg." + hex(id);
}

}  // namespace vmthaw
