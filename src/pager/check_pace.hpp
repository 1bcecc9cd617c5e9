#pragma once

#include <cstdint>

namespace vmthaw {

// When to look next for what costs more the larger the VM is: reading smaps walks all page tables of the VM (19 ms for
// 1 GiB of small pages) and holds its memory map meanwhile. So looks may take half a per cent of the time, however
// often they are asked for. Not thread-safe: one thread at a time.
class CheckPace {
public:
    static constexpr std::uint64_t kRestPerWork = 200;

    // Whether the next look is due at `now_ns`.
    [[nodiscard]] bool is_due(std::uint64_t now_ns) const noexcept { return now_ns >= next_ns_; }
    void looked(std::uint64_t from_ns, std::uint64_t to_ns) noexcept {
        next_ns_ = to_ns + (to_ns - from_ns) * kRestPerWork;
    }

private:
    std::uint64_t next_ns_ = 0;
};

}  // namespace vmthaw
