#include "testing/touch_plan.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.hpp"
#include "testing/splitmix.hpp"

namespace vmthaw::testing {
namespace {

std::vector<std::uint64_t> shuffled(std::uint64_t pages, std::uint64_t first_page, SplitMix& random) {
    std::vector<std::uint64_t> order(pages);
    std::iota(order.begin(), order.end(), first_page);
    for (std::uint64_t i = pages; i > 1; --i) {
        std::swap(order[i - 1], order[random.below(i)]);
    }
    return order;
}

// Draws ranks with probability proportional to 1 / rank^skew; which page has which rank is random.
std::vector<std::uint64_t> zipf(const TouchPlanOptions& options, std::uint64_t count, SplitMix& random) {
    const std::vector<std::uint64_t> by_rank = shuffled(options.pages, options.first_page, random);
    std::vector<double> cumulative(options.pages);
    double sum = 0;
    for (std::uint64_t rank = 0; rank < options.pages; ++rank) {
        sum += 1.0 / std::pow(static_cast<double>(rank + 1), options.skew);
        cumulative[rank] = sum;
    }
    std::vector<std::uint64_t> plan(count);
    for (std::uint64_t& page : plan) {
        const auto found = std::upper_bound(cumulative.begin(), cumulative.end(), random.unit() * sum);
        const auto rank = static_cast<std::uint64_t>(found - cumulative.begin());
        page = by_rank[std::min(rank, options.pages - 1)];
    }
    return plan;
}

}  // namespace

std::vector<std::uint64_t> plan_touches(const TouchPlanOptions& options) {
    if (options.pages == 0) {
        throw ArgumentError("a touch plan needs at least one page");
    }
    if (options.stride == 0) {
        throw ArgumentError("stride must be at least 1");
    }
    const std::uint64_t count = options.count == 0 ? options.pages : options.count;
    if (count > options.pages && options.pattern != TouchPattern::zipf) {
        throw ArgumentError("count is " + std::to_string(count) + " but only " + std::to_string(options.pages) +
                            " pages take part; only zipf repeats pages");
    }
    SplitMix random(options.seed);
    std::vector<std::uint64_t> plan;
    switch (options.pattern) {
        case TouchPattern::sequential:
            plan.resize(options.pages);
            std::iota(plan.begin(), plan.end(), options.first_page);
            break;
        case TouchPattern::random:
        case TouchPattern::subset:
            plan = shuffled(options.pages, options.first_page, random);
            break;
        case TouchPattern::zipf:
            return zipf(options, count, random);
        case TouchPattern::stride:
            plan.reserve(options.pages);
            for (std::uint64_t start = 0; start < std::min(options.stride, options.pages); ++start) {
                for (std::uint64_t page = start; page < options.pages; page += options.stride) {
                    plan.push_back(options.first_page + page);
                }
            }
            break;
    }
    plan.resize(count);
    return plan;
}

}  // namespace vmthaw::testing
