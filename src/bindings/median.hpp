#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace vmthaw::bindings {

// The upper one of an even number; reorders `values`, of which there is at least one.
template <typename Value>
[[nodiscard]] Value median_of(std::vector<Value>& values) {
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
}

}  // namespace vmthaw::bindings
