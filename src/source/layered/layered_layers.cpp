#include "source/layered/layered_layers.hpp"

#include <algorithm>
#include <cerrno>
#include <string>

#include "base/error.hpp"

namespace vmthaw {

std::vector<BuildUse> uses_of_builds(const LayeredHeader& header) {
    std::vector<BuildUse> uses(header.uuids.size());
    for (const LayeredMapping& mapping : header.mappings) {
        BuildUse& use = uses[mapping.build];
        if (use.bytes == 0) {
            use.first_offset = mapping.offset;
        }
        // Nothing behind the memory's end is ever read.
        const std::uint64_t length = std::min(mapping.length, header.size - mapping.offset);
        use.bytes += length;
        use.storage_end = std::max(use.storage_end, mapping.storage + length);
    }
    return uses;
}

void check_layer(const LayeredHeader& header, const Uuid& uuid, const BuildUse& use, const PageSource* source) {
    const std::string wanted = "build " + uuid.text() + ", which has " + std::to_string(use.bytes) +
                               " bytes of the memory (the first at " + hex(use.first_offset) + ")";
    if (source == nullptr) {
        throw Error("the layer of " + wanted + " is missing: give its file in `builds`", "SourceOpenError",
                    {{"path", ""}, {"errno", std::int64_t{ENOENT}}});
    }
    std::uint64_t end = use.storage_end;
    const LayeredBuild* build = header.find_build(uuid);
    const bool is_compressed = build != nullptr && build->codec != FrameCodec::none;
    if (is_compressed) {
        end = build->frames.back().compressed_start + build->frames.back().compressed_size;
    }
    if (source->start() != 0 || source->size() < end) {
        throw Error("the layer of " + wanted + " is short: " + source->description() + " has " +
                        std::to_string(source->size()) + " bytes from " + hex(source->start()) +
                        " on, and the header reads as far as " + std::to_string(end) +
                        (is_compressed ? " of the compressed file" : ""),
                    "SourceOpenError", {{"path", source->description()}, {"errno", std::int64_t{0}}});
    }
}

}  // namespace vmthaw
