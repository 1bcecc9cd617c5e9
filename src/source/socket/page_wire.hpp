#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace vmthaw {

// squib's page-server wire, over any byte stream: a request is an address and a page size, a reply the same 16 bytes
// and then the page; little endian, replies in the order of the requests. There is no hello and no version.
struct PageRequest {
    std::uint64_t ipa = 0;  // guest-physical: what PageSource calls an offset
    std::uint64_t page_size = 0;
    bool operator==(const PageRequest&) const = default;
};

inline constexpr std::size_t kPageRequestBytes = 16;
// Ours: a reply with this size and no payload says that the page cannot be read; the connection ends behind it, so that
// a client who does not know it sees a wrong echo and no byte that it could take for a page.
inline constexpr std::uint64_t kRefusedPageSize = 0;
inline constexpr std::uint64_t kMaxWirePageSize = std::uint64_t{1} << 30U;

using PageRequestBytes = std::array<std::byte, kPageRequestBytes>;

[[nodiscard]] constexpr PageRequestBytes encode(const PageRequest& request) noexcept {
    PageRequestBytes bytes{};
    for (std::size_t i = 0; i < 8; ++i) {
        bytes[i] = static_cast<std::byte>(request.ipa >> (8 * i));
        bytes[8 + i] = static_cast<std::byte>(request.page_size >> (8 * i));
    }
    return bytes;
}

[[nodiscard]] constexpr PageRequest decode(std::span<const std::byte, kPageRequestBytes> bytes) noexcept {
    PageRequest request;
    for (std::size_t i = 8; i-- > 0;) {
        request.ipa = request.ipa << 8U | std::to_integer<std::uint64_t>(bytes[i]);
        request.page_size = request.page_size << 8U | std::to_integer<std::uint64_t>(bytes[8 + i]);
    }
    return request;
}

}  // namespace vmthaw
