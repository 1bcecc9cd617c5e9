#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "vcpu/exit.hpp"

namespace vmthaw {

// Which exits go to a handler: by reason, by port, by guest physical address. Entries are numbered in the order in
// which they were added. Set up on one thread, then read by all.
class ExitFilter {
public:
    // Every exit of this reason that no range below takes. Throws ArgumentError for one that is there already.
    std::size_t add_reason(std::uint32_t reason);
    // Accesses that begin in [first, last]. Throws ArgumentError when the range is empty or overlaps an earlier one.
    std::size_t add_ports(std::uint64_t first, std::uint64_t last);
    std::size_t add_mmio(std::uint64_t first, std::uint64_t last);

    [[nodiscard]] bool empty() const noexcept { return count_ == 0; }
    [[nodiscard]] std::size_t size() const noexcept { return count_; }
    // The entry that an exit belongs to, or nothing.
    [[nodiscard]] std::optional<std::size_t> find(const Exit& exit) const noexcept;

private:
    struct Range {
        std::uint64_t first;
        std::uint64_t last;
        std::size_t entry;
    };
    using Ranges = std::vector<Range>;  // by address

    [[nodiscard]] std::size_t add_range(Ranges& ranges, const char* what, std::uint64_t first, std::uint64_t last,
                                        std::uint64_t limit);
    [[nodiscard]] static std::optional<std::size_t> find_in(const Ranges& ranges, std::uint64_t address) noexcept;

    Ranges ports_;
    Ranges mmio_;
    Ranges reasons_;  // of one number each
    std::size_t count_ = 0;
};

}  // namespace vmthaw
