#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

#include "fuse_protocol/fuse_replies.hpp"

namespace vmthaw {

// Writes one reply into bytes of a given size, never past them: first what follows the header, then the header. Owns
// nothing. What does not fit is not written at all, and the reply becomes an EINVAL.
class ReplyWriter {
public:
    ReplyWriter(std::span<std::byte> reply, std::uint64_t unique) noexcept : reply_(reply), unique_(unique) {}

    // Bytes that may still follow the header.
    [[nodiscard]] std::size_t room() const noexcept {
        return reply_.size() > sizeof(FuseOutHeader) + body_bytes_ ? reply_.size() - sizeof(FuseOutHeader) - body_bytes_
                                                                   : 0;
    }
    template <typename Structure>
    void put(const Structure& structure) noexcept {
        static_assert(std::is_trivially_copyable_v<Structure>);
        put_bytes(std::as_bytes(std::span(&structure, 1)));
    }
    void put_bytes(std::span<const std::byte> bytes) noexcept {
        if (bytes.size() > room()) {
            overflown_ = true;
        } else if (!bytes.empty()) {
            std::memcpy(place(), bytes.data(), bytes.size());
            body_bytes_ += bytes.size();
        }
    }
    // The next bytes, at most `limit`, for somebody else to fill; advance() says how many they filled.
    [[nodiscard]] std::span<std::byte> next(std::size_t limit) const noexcept {
        const std::size_t size = std::min(limit, room());
        return size == 0 ? std::span<std::byte>() : std::span<std::byte>(place(), size);
    }
    void advance(std::size_t count) noexcept { body_bytes_ += std::min(count, room()); }

    // Writes the header; an error drops the body. `elsewhere_bytes` follow from another place. Gives back how many
    // bytes of the reply are here: 0 if not even the header fits.
    [[nodiscard]] std::size_t finish(int error, std::size_t elsewhere_bytes = 0) noexcept;

private:
    [[nodiscard]] std::byte* place() const noexcept { return reply_.data() + sizeof(FuseOutHeader) + body_bytes_; }

    std::span<std::byte> reply_;
    std::uint64_t unique_;
    std::size_t body_bytes_ = 0;
    bool overflown_ = false;
};

}  // namespace vmthaw
