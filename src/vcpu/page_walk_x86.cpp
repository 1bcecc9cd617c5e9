#include "vcpu/paging_format.hpp"

// Intel SDM volume 3, chapter 5 (paging); AMD APM volume 2, chapter 5 says the same.
namespace vmthaw::paging {
namespace {

constexpr std::uint64_t kCr4Pse = 1U << 4U;
constexpr std::uint64_t kCr4Pae = 1U << 5U;
constexpr std::uint64_t kCr4La57 = 1U << 12U;
constexpr std::uint64_t kEferLma = 1U << 10U;
constexpr std::uint64_t kEferNxe = 1U << 11U;

constexpr std::uint64_t kPresent = 1U << 0U;
constexpr std::uint64_t kWritable = 1U << 1U;
constexpr std::uint64_t kUser = 1U << 2U;
constexpr std::uint64_t kAccessed = 1U << 5U;
constexpr std::uint64_t kPageSize = 1U << 7U;
constexpr std::uint64_t kNoExecute = std::uint64_t{1} << 63U;
constexpr std::uint64_t kAddress = 0x000F'FFFF'FFFF'F000;  // bits 51 to 12

PagePermissions permissions_of(std::uint64_t entry) noexcept {
    const bool executable = (entry & kNoExecute) == 0;
    const bool user = (entry & kUser) != 0;
    return {(entry & kWritable) != 0, user, executable, executable && user};
}

Entry decode_long(const Format& format, const Level& level, std::uint64_t entry) {
    if ((entry & kPresent) == 0) {
        return {};
    }
    if (!format.has_no_execute && (entry & kNoExecute) != 0) {
        return {Entry::Kind::reserved, 0, {}, true};
    }
    const bool accessed = (entry & kAccessed) != 0;
    const std::uint64_t address = entry & kAddress;
    if (level.shift == 12) {
        return {Entry::Kind::page, address, permissions_of(entry), accessed};
    }
    if ((entry & kPageSize) == 0) {
        return {Entry::Kind::table, address, permissions_of(entry), accessed};
    }
    // Bit 12 is the memory type; those from 13 up to the page's size must be 0.
    const std::uint64_t reserved = ((std::uint64_t{1} << level.shift) - 1) & ~std::uint64_t{0x1FFF};
    if (!level.may_map || (entry & reserved) != 0) {
        return {Entry::Kind::reserved, 0, {}, true};
    }
    return {Entry::Kind::page, address & ~std::uint64_t{0x1FFF}, permissions_of(entry), accessed};
}

// With PAE outside of long mode: the four entries of the top table have no permissions.
Entry decode_pae(const Format& format, const Level& level, std::uint64_t entry) {
    if (level.shift != 30) {
        return decode_long(format, level, entry);
    }
    constexpr std::uint64_t kReserved = 0xFFF0'0000'0000'01E6;
    if ((entry & kPresent) == 0) {
        return {};
    }
    if ((entry & kReserved) != 0) {
        return {Entry::Kind::reserved, 0, {}, true};
    }
    return {Entry::Kind::table, entry & kAddress, {}, true};
}

Entry decode_32(const Format& /*format*/, const Level& level, std::uint64_t entry) {
    if ((entry & kPresent) == 0) {
        return {};
    }
    const PagePermissions permissions = permissions_of(entry);
    const bool accessed = (entry & kAccessed) != 0;
    if (level.shift == 22 && level.may_map && (entry & kPageSize) != 0) {
        if ((entry & 1U << 21U) != 0) {
            return {Entry::Kind::reserved, 0, {}, true};
        }
        // PSE-36: bits 20 to 13 are bits 39 to 32 of the address.
        const std::uint64_t high = (entry >> 13U & 0xFFU) << 32U;
        return {Entry::Kind::page, (entry & 0xFFC0'0000U) | high, permissions, accessed};
    }
    return {level.shift == 12 ? Entry::Kind::page : Entry::Kind::table, entry & 0xFFFF'F000U, permissions, accessed};
}

Format format_of(const PagingState& state) {
    Format format;
    format.has_no_execute = (state.efer & kEferNxe) != 0;
    if ((state.cr4 & kCr4Pae) == 0) {
        format.root = state.cr3 & 0xFFFF'F000U;
        format.address_bits = 32;
        format.entry_bytes = 4;
        format.levels = {{{22, 10, (state.cr4 & kCr4Pse) != 0, 2}, {12, 10, true, 1}}};
        format.level_count = 2;
        format.decode = &decode_32;
    } else if ((state.efer & kEferLma) == 0) {
        format.root = state.cr3 & 0xFFFF'FFE0U;
        format.address_bits = 32;
        format.levels = {{{30, 2, false, 3}, {21, 9, true, 2}, {12, 9, true, 1}}};
        format.level_count = 3;
        format.decode = &decode_pae;
    } else {
        const std::array<Level, 5> all{
            {{48, 9, false, 5}, {39, 9, false, 4}, {30, 9, true, 3}, {21, 9, true, 2}, {12, 9, true, 1}}};
        const bool has_five = (state.cr4 & kCr4La57) != 0;
        format.root = state.cr3 & kAddress;
        format.address_bits = has_five ? 57 : 48;
        format.is_sign_extended = true;
        format.level_count = has_five ? 5 : 4;
        for (unsigned i = 0; i < format.level_count; ++i) {
            format.levels.at(i) = all.at(5 - format.level_count + i);
        }
        format.decode = &decode_long;
    }
    return format;
}

}  // namespace

std::variant<Format, WalkFailureReason> x86_format(const PagingState& state, std::uint64_t address) {
    const Format format = format_of(state);
    const unsigned unused = 64 - format.address_bits;
    const auto extended = format.is_sign_extended
                              ? static_cast<std::uint64_t>(static_cast<std::int64_t>(address << unused) >> unused)
                              : address << unused >> unused;
    if (extended != address) {
        return WalkFailureReason::not_canonical;
    }
    return format;
}

}  // namespace vmthaw::paging
