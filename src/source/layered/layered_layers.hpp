#pragma once

#include <cstdint>
#include <vector>

#include "source/layered/layered_header.hpp"
#include "source/page_source.hpp"

namespace vmthaw {

// What mappings want of a build.
struct BuildUse {
    std::uint64_t bytes = 0;         // all mappings together
    std::uint64_t first_offset = 0;  // in the memory
    std::uint64_t storage_end = 0;
};

// Of each UUID of the header.
[[nodiscard]] std::vector<BuildUse> uses_of_builds(const LayeredHeader& header);

// Throws Error(SourceOpenError) when the source of a build is missing (null) or too short; it names the build, the
// source and the range.
void check_layer(const LayeredHeader& header, const Uuid& uuid, const BuildUse& use, const PageSource* source);

}  // namespace vmthaw
