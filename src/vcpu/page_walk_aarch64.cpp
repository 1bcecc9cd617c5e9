#include <algorithm>

#include "vcpu/paging_format.hpp"

// Arm Architecture Reference Manual (DDI 0487), D8: VMSAv8-64, stage 1 of the EL1&0 regime.
namespace vmthaw::paging {
namespace {

constexpr std::uint64_t bits(std::uint64_t value, unsigned high, unsigned low) noexcept {
    return value >> low & ((std::uint64_t{1} << (high - low + 1)) - 1);
}
constexpr bool bit(std::uint64_t value, unsigned number) noexcept { return (value >> number & 1U) != 0; }

// The address in a descriptor (or, of the root, in TTBR): bits from `shift` on, and those above 47 where they fit.
std::uint64_t output_address(const Format& format, std::uint64_t descriptor, unsigned shift) noexcept {
    if (!format.has_upper_output_bits) {
        return bits(descriptor, 47, shift) << shift;
    }
    if (format.page_shift == 16) {
        return bits(descriptor, 47, shift) << shift | bits(descriptor, 15, 12) << 48U;
    }
    return bits(descriptor, 49, shift) << shift | bits(descriptor, 9, 8) << 50U;
}

Entry decode(const Format& format, const Level& level, std::uint64_t entry) {
    if (!bit(entry, 0)) {
        return {};
    }
    const bool is_last = level.number == 3;
    if (!bit(entry, 1) && (is_last || !level.may_map)) {
        return {Entry::Kind::reserved, 0, {}, true};
    }
    Entry found;
    if (bit(entry, 1) && !is_last) {
        found.kind = Entry::Kind::table;
        found.address = output_address(format, entry, format.page_shift);
        if (!format.ignores_table_limits) {
            const bool user = !bit(entry, 61);
            found.permissions = {!bit(entry, 62), user, !bit(entry, 59), !bit(entry, 60)};
        }
    } else {
        found.kind = Entry::Kind::page;
        found.address = output_address(format, entry, level.shift);
        const bool dirtied_by_hardware = format.has_hardware_dirty && bit(entry, 51);
        found.permissions = {!bit(entry, 7) || dirtied_by_hardware, bit(entry, 6), !bit(entry, 53), !bit(entry, 54)};
        found.accessed = bit(entry, 10);
    }
    if (format.output_bits < 64 && found.address >> format.output_bits != 0) {
        return {Entry::Kind::beyond, found.address, {}, true};
    }
    return found;
}

// 0: a granule that is reserved.
unsigned page_shift_of(std::uint64_t tcr, bool is_upper) noexcept {
    constexpr std::array<unsigned, 4> kLower{12, 16, 14, 0};
    constexpr std::array<unsigned, 4> kUpper{0, 14, 12, 16};
    return is_upper ? kUpper.at(bits(tcr, 31, 30)) : kLower.at(bits(tcr, 15, 14));
}

std::variant<Format, WalkFailureReason> format_of(const PagingState& state, bool is_upper) {
    const std::uint64_t tcr = state.tcr;
    const auto size_bits = static_cast<unsigned>(is_upper ? bits(tcr, 21, 16) : bits(tcr, 5, 0));  // T0SZ, T1SZ
    if (bit(tcr, is_upper ? 23 : 7)) {
        return WalkFailureReason::walks_disabled;
    }
    constexpr std::array<unsigned, 8> kOutputBits{32, 36, 40, 42, 44, 48, 52, 56};
    Format format;
    format.page_shift = page_shift_of(tcr, is_upper);
    format.output_bits = kOutputBits.at(bits(tcr, 34, 32));
    format.has_upper_output_bits = format.page_shift == 16 ? format.output_bits >= 52 : bit(tcr, 59);  // IPS, DS
    if (!format.has_upper_output_bits) {
        format.output_bits = std::min(format.output_bits, 48U);
    }
    format.output_bits = std::min(format.output_bits, 52U);
    // 52-bit addresses: TCR_EL1.DS, or the 64 KiB granule.
    const unsigned least = format.page_shift == 16 || bit(tcr, 59) ? 12 : 16;
    if (format.page_shift == 0 || size_bits < least || size_bits > 48) {
        return WalkFailureReason::bad_configuration;
    }
    format.address_bits = 64 - size_bits;
    format.first = is_upper ? ~std::uint64_t{0} << format.address_bits : 0;
    format.ignores_table_limits = bit(tcr, is_upper ? 42 : 41);
    format.has_hardware_dirty = bit(tcr, 40);
    format.decode = &decode;
    const unsigned bits_per_level = format.page_shift - 3;
    const unsigned indexed = format.address_bits - std::min(format.address_bits, format.page_shift);
    format.level_count = (indexed + bits_per_level - 1) / bits_per_level;
    if (format.level_count == 0 || format.level_count > format.levels.size()) {
        return WalkFailureReason::bad_configuration;
    }
    for (unsigned i = 0; i < format.level_count; ++i) {
        Level& level = format.levels.at(i);
        const unsigned below = format.level_count - 1 - i;
        level.number = 3 - static_cast<int>(below);
        level.shift = format.page_shift + below * bits_per_level;
        level.index_bits = std::min(bits_per_level, format.address_bits - level.shift);
        // Blocks: 4 KiB granule from level 1 on (0 with DS), the others at level 2 (1 with 52-bit addresses).
        const int first_block = (format.page_shift == 12 ? 1 : 2) - (format.has_upper_output_bits ? 1 : 0);
        level.may_map = level.number >= first_block;
    }
    const std::uint64_t ttbr = is_upper ? state.ttbr1 : state.ttbr0;
    const unsigned table_shift = std::max(format.levels[0].index_bits + 3, format.has_upper_output_bits ? 6U : 4U);
    format.root = bits(ttbr, 47, 0) >> table_shift << table_shift;
    if (format.has_upper_output_bits) {
        format.root = bits(ttbr, 47, std::max(table_shift, 6U)) << std::max(table_shift, 6U) | bits(ttbr, 5, 2) << 48U;
    }
    return format;
}

}  // namespace

std::variant<Format, WalkFailureReason> aarch64_format(const PagingState& state, std::uint64_t address) {
    const bool is_upper = bit(address, 55);
    const auto found = format_of(state, is_upper);
    const auto* const format = std::get_if<Format>(&found);
    if (format == nullptr) {
        return found;
    }
    // With TBI the top byte is the program's own.
    const bool ignores_top = bit(state.tcr, is_upper ? 38 : 37);
    const unsigned most = ignores_top ? 56 : 64;
    const std::uint64_t above =
        (most == 64 ? address : address & ((std::uint64_t{1} << 56U) - 1)) >> format->address_bits;
    const std::uint64_t wanted = is_upper ? (~std::uint64_t{0} >> (64 - (most - format->address_bits))) : 0;
    if (above != wanted) {
        return WalkFailureReason::not_canonical;
    }
    return found;
}

}  // namespace vmthaw::paging
