#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "vcpu/exit.hpp"
#include "vcpu/register_snapshot.hpp"

namespace vmthaw {

// What decides how a vCPU's addresses are translated. Of the other architecture's registers nothing is read.
struct PagingState {
    GuestArch arch = GuestArch::x86_64;
    std::uint64_t cr0 = 0, cr3 = 0, cr4 = 0, efer = 0;
    std::uint64_t ttbr0 = 0, ttbr1 = 0, tcr = 0;
    bool is_mmu_on = true;  // aarch64: SCTLR_EL1.M

    // From a capture of an aarch64 vCPU (its MMU taken to be on); ArgumentError without TCR.
    [[nodiscard]] static PagingState of_aarch64(const RegisterSnapshot& snapshot);
};

// What the tables allow, all levels together. They alone: CR0.WP, SMEP, SMAP, protection keys, PAN and WXN may say
// more.
struct PagePermissions {
    bool writable = true;
    bool user = true;  // x86-64: CPL 3 may; aarch64: EL0 may
    bool kernel_executable = true;
    bool user_executable = true;
    bool operator==(const PagePermissions&) const = default;
};

struct PageTranslation {
    std::uint64_t guest_physical = 0;  // of the very byte
    std::uint64_t page_bytes = 0;      // of the page that it lies in
    PagePermissions permissions;
    bool accessed = true;  // the entry's accessed flag
};

enum class WalkFailureReason : std::uint8_t {
    not_canonical,      // no address that these tables translate
    walks_disabled,     // aarch64: TCR_EL1.EPD
    bad_configuration,  // a TCR_EL1 that means nothing
    not_present,
    reserved_bits,  // an entry that the processor would refuse
    address_size,   // aarch64: an output address beyond TCR_EL1.IPS
    no_memory,      // a table lies where the guest has no memory
};
[[nodiscard]] const char* walk_failure_name(WalkFailureReason reason) noexcept;

struct WalkFailure {
    WalkFailureReason reason = WalkFailureReason::not_present;
    std::uint64_t address = 0;        // that was looked up
    int level = 0;                    // of the table, as its architecture counts; 0 when no table was read
    std::uint64_t entry_address = 0;  // guest-physical
    std::uint64_t entry = 0;
    [[nodiscard]] std::string describe() const;
};

// Reads guest-physical memory into `out`, all or nothing: false where there is none.
using ReadPhysical = std::function<bool(std::uint64_t guest_physical, std::span<std::byte> out)>;
using WalkResult = std::variant<PageTranslation, WalkFailure>;

// Follows the guest's own tables, which may hold anything: every walk ends after at most five entries.
[[nodiscard]] WalkResult translate(const PagingState& state, const ReadPhysical& read, std::uint64_t address);

// Copies guest-virtual memory, page by page. Gives the first failure; `out` then holds what came before it.
[[nodiscard]] std::optional<WalkFailure> read_guest_virtual(const PagingState& state, const ReadPhysical& read,
                                                            std::uint64_t address, std::span<std::byte> out);

// A run of guest-virtual addresses that lie one after another in guest-physical memory too.
struct MappedRange {
    std::uint64_t address = 0;
    std::uint64_t guest_physical = 0;
    std::uint64_t size_bytes = 0;
    PagePermissions permissions;
};
struct MappedRanges {
    std::vector<MappedRange> ranges;  // ascending; without paging: none
    bool is_complete = true;          // false: a limit was met
};
// All that the tables map. Tables may point at themselves, so there are limits: of ranges, and of entries that are
// read (the default is enough for 4 KiB pages all over 256 GiB).
inline constexpr std::uint64_t kMostEntries = 1U << 27U;
[[nodiscard]] MappedRanges mapped_ranges(const PagingState& state, const ReadPhysical& read, std::size_t most_ranges,
                                         std::uint64_t most_entries = kMostEntries);

}  // namespace vmthaw
