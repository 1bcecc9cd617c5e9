#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <variant>

#include "kernel/userfaultfd.hpp"

namespace vmthaw {

// Decoded userfaultfd messages. decode() is pure: no system call, no allocation, no exception, any 32 bytes accepted;
// whatever the other types promise (an end not before its start, no overflow) has been checked by it.

struct PagefaultMessage {
    std::uint64_t host_address = 0;  // of the page, or of the byte when EXACT_ADDRESS was negotiated
    std::uint64_t flags = 0;         // kFaultWrite | kFaultWriteProtect | kFaultMinor, later ones included
    std::uint32_t thread_id = 0;     // 0 unless THREAD_ID was negotiated

    [[nodiscard]] constexpr bool is_write() const noexcept { return (flags & kFaultWrite) != 0; }
    [[nodiscard]] constexpr bool is_write_protect() const noexcept { return (flags & kFaultWriteProtect) != 0; }
    [[nodiscard]] constexpr bool is_minor() const noexcept { return (flags & kFaultMinor) != 0; }
    [[nodiscard]] constexpr bool is_missing() const noexcept { return !is_write_protect() && !is_minor(); }
};

// The child's userfaultfd: read(2) has already opened it in this process, so whoever drops it must close it.
struct ForkMessage {
    int fd = -1;
};

struct RemapMessage {
    std::uint64_t host_from = 0;
    std::uint64_t host_to = 0;
    std::uint64_t size_bytes = 0;
};

// [host_start, host_end)
struct RemoveMessage {
    std::uint64_t host_start = 0;
    std::uint64_t host_end = 0;
};
struct UnmapMessage {
    std::uint64_t host_start = 0;
    std::uint64_t host_end = 0;
};

// Kept with its bytes, to be counted and reported: an event that this library does not know, or one that contradicts
// itself.
struct UnknownMessage {
    std::uint8_t event = 0;
    bool is_malformed = false;  // the event is known, its fields are impossible
    std::array<std::byte, sizeof(UffdMessage)> bytes{};
};

using Message = std::variant<UnknownMessage, PagefaultMessage, ForkMessage, RemapMessage, RemoveMessage, UnmapMessage>;

[[nodiscard]] Message decode(const UffdMessage& message) noexcept;

}  // namespace vmthaw
