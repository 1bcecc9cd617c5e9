#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace vmthaw::testing {

enum class TouchPattern : std::uint8_t { sequential, random, subset, zipf, stride };

struct TouchPlanOptions {
    TouchPattern pattern = TouchPattern::sequential;
    std::uint64_t seed = 0;
    std::uint64_t first_page = 0;
    std::uint64_t pages = 0;   // how many from first_page on take part
    std::uint64_t count = 0;   // touches; 0: each page once. subset: distinct pages, zipf: draws with repeats
    std::uint64_t stride = 1;  // stride: every stride-th page, then again from the next, until all were touched
    double skew = 1.0;         // zipf: the exponent
};

// The page numbers to touch, in order; equal options give equal plans everywhere. Throws ArgumentError.
[[nodiscard]] std::vector<std::uint64_t> plan_touches(const TouchPlanOptions& options);

}  // namespace vmthaw::testing
