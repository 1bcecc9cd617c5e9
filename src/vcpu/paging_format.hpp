#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <variant>
#include <vector>

#include "vcpu/page_walk.hpp"

// Inside the page-table walk: what one root register leads to, from the top table down. The formats differ in their
// numbers and in how an entry is read; walking them is the same.
namespace vmthaw::paging {

struct Level {
    unsigned shift = 0;  // of the address bits that index its table
    unsigned index_bits = 0;
    bool may_map = false;  // its entries may be pages
    int number = 0;        // as the architecture counts: x86 from 1 at the bottom, aarch64 up to 3 there
};

struct Entry {
    enum class Kind : std::uint8_t { absent, table, page, reserved, beyond };
    Kind kind = Kind::absent;
    std::uint64_t address = 0;  // of the next table or of the page, guest-physical
    PagePermissions permissions;
    bool accessed = true;
};

struct Format {
    std::uint64_t root = 0;   // guest-physical address of the top table
    std::uint64_t first = 0;  // the lowest address that it translates
    unsigned address_bits = 0;
    unsigned entry_bytes = 8;
    bool is_sign_extended = false;  // x86-64: addresses of the upper half begin with ones
    std::array<Level, 5> levels{};
    unsigned level_count = 0;
    Entry (*decode)(const Format& format, const Level& level, std::uint64_t entry) = nullptr;
    // For decode().
    bool has_no_execute = false;         // x86-64: EFER.NXE
    bool has_upper_output_bits = false;  // aarch64: 52-bit addresses
    bool ignores_table_limits = false;   // aarch64: TCR_EL1.HPD
    bool has_hardware_dirty = false;     // aarch64: TCR_EL1.HD
    unsigned page_shift = 12;
    unsigned output_bits = 52;
};

// The format that translates `address`, or why there is none. Not for a state without paging.
[[nodiscard]] std::variant<Format, WalkFailureReason> x86_format(const PagingState& state, std::uint64_t address);
[[nodiscard]] std::variant<Format, WalkFailureReason> aarch64_format(const PagingState& state, std::uint64_t address);
// All formats of a state, lowest addresses first.
[[nodiscard]] std::vector<Format> formats(const PagingState& state);

[[nodiscard]] bool is_paging_off(const PagingState& state) noexcept;

}  // namespace vmthaw::paging
