#pragma once

#include <array>
#include <cstdint>

namespace vmthaw {

enum class FillMode : std::uint8_t {
    page,    // what was asked for
    block,   // the power-of-two block around the fault
    window,  // a window that doubles while faults hit the page after the last fill
};

struct FillPlan {
    std::uint64_t first_page = 0;
    std::uint64_t pages = 1;
};

// Says how much to fill around a fault. Pure and small: page numbers in, page numbers out. One planner per region set;
// the caller holds the session's gate exclusively.
//
// The window: random faults want one page (a fixed block costs up to nine times the memory), sequential ones 2 MiB
// (five times faster). So each stream starts with one page and doubles only when a fault hits exactly the page after
// its last fill. Eight streams, so that as many vCPUs can each walk their own way.
class FillPlanner {
public:
    static constexpr std::size_t kStreams = 8;

    FillPlanner(FillMode mode, std::uint64_t max_pages) noexcept
        : mode_(mode), max_pages_(max_pages < 1 ? 1 : max_pages) {}

    // `page` was touched; only pages in [low, high) may be filled. The plan always holds `page`.
    [[nodiscard]] FillPlan plan(std::uint64_t page, std::uint64_t low, std::uint64_t high) noexcept;
    // What came of it: the caller may have cut the plan short at a page that is not absent.
    void filled(const FillPlan& plan) noexcept;

private:
    struct Stream {
        std::uint64_t next_page = ~std::uint64_t{0};
        std::uint64_t window_pages = 1;
        std::uint64_t used = 0;  // age, for replacement
    };

    FillPlan plan_block(std::uint64_t page, std::uint64_t low, std::uint64_t high) const noexcept;
    FillPlan plan_window(std::uint64_t page, std::uint64_t high) noexcept;

    FillMode mode_;
    std::uint64_t max_pages_;
    std::array<Stream, kStreams> streams_{};
    std::size_t current_ = 0;
    std::uint64_t ticks_ = 0;
};

}  // namespace vmthaw
