#pragma once

#include <cstdint>
#include <span>

#include "base/error.hpp"
#include "machine/guest_memory.hpp"

namespace vmthaw {

// Descriptors of VMSAv8-64. Arm Architecture Reference Manual (DDI 0487), D8.3.
inline constexpr std::uint64_t kBlock = 1;
inline constexpr std::uint64_t kPage = 3;
inline constexpr std::uint64_t kTable = 3;
inline constexpr std::uint64_t kUser = 1U << 6U;
inline constexpr std::uint64_t kReadOnly = 1U << 7U;
inline constexpr std::uint64_t kShared = 3U << 8U;
inline constexpr std::uint64_t kAccessed = 1U << 10U;
inline constexpr std::uint64_t kDirtyBitModifier = std::uint64_t{1} << 51U;
inline constexpr std::uint64_t kNeverExecuted = std::uint64_t{3} << 53U;
inline constexpr std::uint64_t kTableNotUser = std::uint64_t{1} << 61U;
inline constexpr std::uint64_t kTableReadOnly = std::uint64_t{1} << 62U;

// Hands out guest memory for tables, zeroed as it is at first.
class TableSpace {
public:
    TableSpace(std::uint64_t start, std::uint64_t end) : next_(start), end_(end) {}
    [[nodiscard]] std::uint64_t take(std::uint64_t size_bytes) {
        const std::uint64_t at = (next_ + size_bytes - 1) / size_bytes * size_bytes;
        if (at + size_bytes > end_) {
            throw ArgumentError("no room for another table");
        }
        next_ = at + size_bytes;
        return at;
    }

private:
    std::uint64_t next_, end_;
};

// The tables below one TTBR, written entry by entry into guest memory. It shares nothing with the walk that is tested.
class TranslationTables {
public:
    TranslationTables(const GuestMemory& memory, TableSpace& space, unsigned page_shift, unsigned address_bits)
        : memory_(memory), space_(space), page_shift_(page_shift), address_bits_(address_bits), root_(new_table()) {}

    [[nodiscard]] std::uint64_t root() const noexcept { return root_; }
    [[nodiscard]] unsigned shift(int level) const noexcept {
        return page_shift_ + static_cast<unsigned>(3 - level) * bits_per_level();
    }
    [[nodiscard]] int first_level() const noexcept {
        const unsigned levels = (address_bits_ - page_shift_ + bits_per_level() - 1) / bits_per_level();
        return 4 - static_cast<int>(levels);
    }
    // `descriptor` in the table of `level` that translates `address`. Tables above are made where there are none, the
    // last of them with `limits`.
    void put(std::uint64_t address, int level, std::uint64_t descriptor, std::uint64_t limits = 0) {
        std::uint64_t table = root_;
        for (int at = first_level(); at < level; ++at) {
            const std::uint64_t place = table + 8 * index(address, at);
            std::uint64_t entry = 0;
            memory_.read(place, std::as_writable_bytes(std::span(&entry, 1)));
            if (entry == 0) {
                entry = new_table() | kTable | (at + 1 == level ? limits : 0);
                write(place, entry);
            }
            table = (entry & kAddressMask) >> page_shift_ << page_shift_;
        }
        write(table + 8 * index(address, level), descriptor);
    }

private:
    static constexpr std::uint64_t kAddressMask = 0x0000'FFFF'FFFF'F000;

    [[nodiscard]] unsigned bits_per_level() const noexcept { return page_shift_ - 3; }
    [[nodiscard]] std::uint64_t index(std::uint64_t address, int level) const noexcept {
        const std::uint64_t translated = address & ((std::uint64_t{1} << address_bits_) - 1);
        return translated >> shift(level) & ((std::uint64_t{1} << bits_per_level()) - 1);
    }
    [[nodiscard]] std::uint64_t new_table() { return space_.take(std::uint64_t{1} << page_shift_); }
    void write(std::uint64_t place, std::uint64_t entry) { memory_.write(place, std::as_bytes(std::span(&entry, 1))); }

    const GuestMemory& memory_;
    TableSpace& space_;
    unsigned page_shift_, address_bits_;
    std::uint64_t root_;
};

}  // namespace vmthaw
