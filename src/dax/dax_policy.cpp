#include "dax/dax_policy.hpp"

#include <fnmatch.h>

#include <algorithm>
#include <utility>

namespace vmthaw {
namespace {

bool matches_any(const std::vector<std::string>& patterns, const std::string& name) noexcept {
    return std::ranges::any_of(patterns, [&](const std::string& pattern) {
        return ::fnmatch(pattern.c_str(), name.c_str(), FNM_PERIOD) == 0;
    });
}

}  // namespace

DaxRules::DaxRules(std::uint64_t smallest_bytes, std::vector<std::string> include, std::vector<std::string> exclude)
    : smallest_bytes_(smallest_bytes), include_(std::move(include)), exclude_(std::move(exclude)) {}

bool DaxRules::uses_dax(const DaxFile& file) noexcept {
    if (file.size_bytes < smallest_bytes_) {
        return false;
    }
    if (file.name.empty()) {
        return true;
    }
    return (include_.empty() || matches_any(include_, file.name)) && !matches_any(exclude_, file.name);
}

}  // namespace vmthaw
