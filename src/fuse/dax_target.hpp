#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "fuse_protocol/fuse_attributes.hpp"

namespace vmthaw {

// Where the dispatcher takes SETUPMAPPING and REMOVEMAPPING: a DAX session, or something that stands for one. Called by
// several threads at once; answers are 0 or a positive errno. `body` is what follows the request's header, unchecked.
class DaxTarget {
public:
    DaxTarget() = default;
    DaxTarget(const DaxTarget&) = delete;
    DaxTarget& operator=(const DaxTarget&) = delete;
    virtual ~DaxTarget() = default;

    [[nodiscard]] virtual int setup_mapping(std::uint64_t node, std::span<const std::byte> body) noexcept = 0;
    [[nodiscard]] virtual int remove_mapping(std::uint64_t node, std::span<const std::byte> body) noexcept = 0;
    // INIT, DESTROY: every mapping goes.
    virtual void reset() noexcept = 0;
    // log2 of the granule, for INIT.
    [[nodiscard]] virtual std::uint16_t map_alignment() const noexcept = 0;
    // Per-inode DAX: whether this regular file is to be mapped. `name`: by which the client has found or made it; empty
    // where it asks for attributes alone, and is to hear the same as before.
    [[nodiscard]] virtual bool uses_dax(std::uint64_t node, const FuseAttr& attr, std::string_view name) noexcept = 0;
    // The client has opened or made the file: what was said of it may be asked anew.
    virtual void opened(std::uint64_t node) noexcept = 0;
    // The client has forgotten the node (or one of its look-ups): what it opens next is another file.
    virtual void forgotten(std::uint64_t node) noexcept = 0;
};

}  // namespace vmthaw
