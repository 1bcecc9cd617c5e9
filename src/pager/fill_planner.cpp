#include "pager/fill_planner.hpp"

#include <algorithm>
#include <bit>

namespace vmthaw {

FillPlan FillPlanner::plan(std::uint64_t page, std::uint64_t low, std::uint64_t high) noexcept {
    switch (mode_) {
        case FillMode::page:
            return {page, 1};
        case FillMode::block:
            return plan_block(page, low, high);
        case FillMode::window:
            return plan_window(page, high);
    }
    return {page, 1};
}

FillPlan FillPlanner::plan_block(std::uint64_t page, std::uint64_t low, std::uint64_t high) const noexcept {
    const std::uint64_t block = std::bit_floor(max_pages_);
    const std::uint64_t first = page & ~(block - 1);
    const std::uint64_t from = std::max(first, low);
    const std::uint64_t to = high - first < block ? high : first + block;
    return {from, to - from};
}

FillPlan FillPlanner::plan_window(std::uint64_t page, std::uint64_t high) noexcept {
    ++ticks_;
    std::size_t oldest = 0;
    for (std::size_t i = 0; i < kStreams; ++i) {
        if (streams_[i].next_page == page) {
            current_ = i;
            streams_[i].window_pages = std::min(streams_[i].window_pages * 2, max_pages_);
            streams_[i].used = ticks_;
            return {page, std::min(streams_[i].window_pages, high - page)};
        }
        if (streams_[i].used < streams_[oldest].used) {
            oldest = i;
        }
    }
    current_ = oldest;
    streams_[oldest] = {.next_page = page, .window_pages = 1, .used = ticks_};
    return {page, 1};
}

void FillPlanner::filled(const FillPlan& plan) noexcept {
    if (mode_ == FillMode::window) {
        streams_[current_].next_page = plan.first_page + plan.pages;
    }
}

}  // namespace vmthaw
