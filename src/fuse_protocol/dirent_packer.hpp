#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "fuse_protocol/fuse_replies.hpp"

namespace vmthaw {

// Packs directory entries one behind the other, each padded with zeros to a multiple of 8 bytes. Owns nothing.
class DirentPacker {
public:
    explicit DirentPacker(std::span<std::byte> space) noexcept : space_(space) {}

    // false: it does not fit, or no client would take the name; nothing was written.
    [[nodiscard]] bool add(std::string_view name, const FuseDirent& dirent) noexcept;
    [[nodiscard]] bool add_plus(std::string_view name, const FuseEntryOut& entry, const FuseDirent& dirent) noexcept;

    [[nodiscard]] std::size_t used_bytes() const noexcept { return used_bytes_; }

private:
    [[nodiscard]] bool add_record(std::span<const std::byte> head, std::string_view name) noexcept;

    std::span<std::byte> space_;
    std::size_t used_bytes_ = 0;
};

}  // namespace vmthaw
