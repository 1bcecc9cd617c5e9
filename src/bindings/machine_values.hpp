#pragma once

#include <cstdint>
#include <tuple>
#include <vector>

#include "machine/payload/pattern.hpp"

namespace vmthaw::bindings {

// As Python passes them: (seed, share, first page, pages), shares in 1/65536; (seed, zero share, rewritings).
using RewriteTuple = std::tuple<std::uint64_t, std::uint64_t, std::uint64_t, std::uint64_t>;
using WorkloadTuple = std::tuple<std::uint64_t, std::uint64_t, std::vector<RewriteTuple>>;

[[nodiscard]] payload::Workload workload_from(const WorkloadTuple& given);  // throws ArgumentError
[[nodiscard]] WorkloadTuple workload_to(const payload::Workload& workload);

}  // namespace vmthaw::bindings
