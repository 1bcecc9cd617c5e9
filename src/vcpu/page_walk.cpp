#include "vcpu/page_walk.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/error.hpp"
#include "vcpu/paging_format.hpp"

namespace vmthaw {
namespace paging {

bool is_paging_off(const PagingState& state) noexcept {
    constexpr std::uint64_t kCr0Pg = std::uint64_t{1} << 31U;
    return state.arch == GuestArch::x86_64 ? (state.cr0 & kCr0Pg) == 0 : !state.is_mmu_on;
}

std::vector<Format> formats(const PagingState& state) {
    std::vector<Format> all;
    if (is_paging_off(state)) {
        return all;
    }
    // An address that each half surely has.
    for (const std::uint64_t address : {std::uint64_t{0}, ~std::uint64_t{0}}) {
        if (state.arch == GuestArch::x86_64 && address != 0) {
            break;
        }
        const auto found =
            state.arch == GuestArch::x86_64 ? x86_format(state, address) : aarch64_format(state, address);
        if (const auto* const format = std::get_if<Format>(&found)) {
            all.push_back(*format);
        }
    }
    return all;
}

}  // namespace paging

namespace {

using paging::Entry;
using paging::Format;
using paging::Level;

PagePermissions both(const PagePermissions& one, const PagePermissions& other) noexcept {
    return {one.writable && other.writable, one.user && other.user, one.kernel_executable && other.kernel_executable,
            one.user_executable && other.user_executable};
}

std::uint64_t value_of(std::span<const std::byte> bytes) noexcept {
    std::uint64_t value = 0;
    std::memcpy(&value, bytes.data(), bytes.size());
    return value;
}

WalkFailureReason reason_of(Entry::Kind kind) noexcept {
    switch (kind) {
        case Entry::Kind::reserved:
            return WalkFailureReason::reserved_bits;
        case Entry::Kind::beyond:
            return WalkFailureReason::address_size;
        default:
            return WalkFailureReason::not_present;
    }
}

// Depth first through all tables of one format.
class Enumerator {
public:
    Enumerator(const Format& format, const ReadPhysical& read, std::size_t most, std::uint64_t most_entries,
               MappedRanges& out)
        : format_(format), read_(read), most_(most), out_(out), entries_left_(most_entries) {}

    void visit(unsigned depth, std::uint64_t table, std::uint64_t address, const PagePermissions& permissions) {
        const Level& level = format_.levels.at(depth);
        const std::size_t entries = std::size_t{1} << level.index_bits;
        if (entries > entries_left_) {
            out_.is_complete = false;
            return;
        }
        entries_left_ -= entries;
        std::vector<std::byte> bytes(entries * format_.entry_bytes);
        if (!read_(table, bytes)) {
            return;
        }
        for (std::size_t i = 0; i < entries && out_.is_complete; ++i) {
            const std::span<const std::byte> raw(bytes.data() + i * format_.entry_bytes, format_.entry_bytes);
            const Entry entry = format_.decode(format_, level, value_of(raw));
            std::uint64_t at = address + (std::uint64_t{i} << level.shift);
            if (depth == 0 && format_.is_sign_extended && (at >> (format_.address_bits - 1) & 1U) != 0) {
                at |= ~std::uint64_t{0} << format_.address_bits;
            }
            const PagePermissions allowed = both(permissions, entry.permissions);
            if (entry.kind == Entry::Kind::page) {
                add({at, entry.address, std::uint64_t{1} << level.shift, allowed});
            } else if (entry.kind == Entry::Kind::table) {
                visit(depth + 1, entry.address, at, allowed);
            }
        }
    }

private:
    void add(const MappedRange& range) {
        if (!out_.ranges.empty()) {
            MappedRange& last = out_.ranges.back();
            if (last.address + last.size_bytes == range.address &&
                last.guest_physical + last.size_bytes == range.guest_physical &&
                last.permissions == range.permissions) {
                last.size_bytes += range.size_bytes;
                return;
            }
        }
        if (out_.ranges.size() >= most_) {
            out_.is_complete = false;
            return;
        }
        out_.ranges.push_back(range);
    }

    const Format& format_;
    const ReadPhysical& read_;
    std::size_t most_;
    MappedRanges& out_;
    std::uint64_t entries_left_;
};

}  // namespace

PagingState PagingState::of_aarch64(const RegisterSnapshot& snapshot) {
    if (!snapshot.tcr_el1) {
        throw ArgumentError("the snapshot has no tcr_el1; without it aarch64's tables cannot be read");
    }
    PagingState state;
    state.arch = GuestArch::aarch64;
    state.ttbr0 = snapshot.user_page_table_root.value_or(0);
    state.ttbr1 = snapshot.page_table_root;
    state.tcr = *snapshot.tcr_el1;
    return state;
}

const char* walk_failure_name(WalkFailureReason reason) noexcept {
    constexpr std::array<const char*, 7> kNames{"not canonical", "walks disabled", "bad configuration", "not present",
                                                "reserved bits", "address size",   "no memory"};
    const auto index = static_cast<std::size_t>(reason);
    return index < kNames.size() ? kNames.at(index) : "unknown";
}

std::string WalkFailure::describe() const {
    std::string text = "guest-virtual address " + hex(address) + " is not translated: " + walk_failure_name(reason);
    if (entry_address != 0 || entry != 0) {
        text += " (level " + std::to_string(level) + ", the entry at " + hex(entry_address) + " is " + hex(entry) + ")";
    }
    return text;
}

WalkResult translate(const PagingState& state, const ReadPhysical& read, std::uint64_t address) {
    constexpr std::uint64_t kSmallestPage = 4096;
    if (paging::is_paging_off(state)) {
        if (state.arch == GuestArch::x86_64 && address >> 32U != 0) {
            return WalkFailure{WalkFailureReason::not_canonical, address, 0, 0, 0};
        }
        return PageTranslation{address, kSmallestPage, {}, true};
    }
    const auto found =
        state.arch == GuestArch::x86_64 ? paging::x86_format(state, address) : paging::aarch64_format(state, address);
    if (const auto* const reason = std::get_if<WalkFailureReason>(&found)) {
        return WalkFailure{*reason, address, 0, 0, 0};
    }
    const Format& format = std::get<Format>(found);
    PagePermissions permissions;
    std::uint64_t table = format.root;
    for (unsigned depth = 0; depth < format.level_count; ++depth) {
        const Level& level = format.levels.at(depth);
        const std::uint64_t index = address >> level.shift & ((std::uint64_t{1} << level.index_bits) - 1);
        const std::uint64_t entry_address = table + index * format.entry_bytes;
        std::array<std::byte, 8> bytes{};
        if (!read(entry_address, std::span(bytes).first(format.entry_bytes))) {
            return WalkFailure{WalkFailureReason::no_memory, address, level.number, entry_address, 0};
        }
        const std::uint64_t raw = value_of(bytes);
        const Entry entry = format.decode(format, level, raw);
        if (entry.kind == Entry::Kind::page) {
            const std::uint64_t page_bytes = std::uint64_t{1} << level.shift;
            return PageTranslation{entry.address + (address & (page_bytes - 1)), page_bytes,
                                   both(permissions, entry.permissions), entry.accessed};
        }
        if (entry.kind != Entry::Kind::table) {
            return WalkFailure{reason_of(entry.kind), address, level.number, entry_address, raw};
        }
        permissions = both(permissions, entry.permissions);
        table = entry.address;
    }
    return WalkFailure{WalkFailureReason::bad_configuration, address, 0, table, 0};  // the last level has no tables
}

std::optional<WalkFailure> read_guest_virtual(const PagingState& state, const ReadPhysical& read, std::uint64_t address,
                                              std::span<std::byte> out) {
    while (!out.empty()) {
        const WalkResult result = translate(state, read, address);
        if (const auto* const failure = std::get_if<WalkFailure>(&result)) {
            return *failure;
        }
        const auto& page = std::get<PageTranslation>(result);
        const std::uint64_t left = page.page_bytes - address % page.page_bytes;
        const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(left, out.size()));
        if (!read(page.guest_physical, out.first(count))) {
            return WalkFailure{WalkFailureReason::no_memory, address, 0, page.guest_physical, 0};
        }
        out = out.subspan(count);
        if (!out.empty() && address > ~std::uint64_t{0} - count) {
            return WalkFailure{WalkFailureReason::not_canonical, address, 0, 0, 0};
        }
        address += count;
    }
    return std::nullopt;
}

MappedRanges mapped_ranges(const PagingState& state, const ReadPhysical& read, std::size_t most_ranges,
                           std::uint64_t most_entries) {
    MappedRanges found;
    for (const Format& format : paging::formats(state)) {
        Enumerator(format, read, most_ranges, most_entries, found).visit(0, format.root, format.first, {});
    }
    return found;
}

}  // namespace vmthaw
