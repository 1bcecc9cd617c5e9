#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "base/page.hpp"

namespace vmthaw {

// What SETUPMAPPING (48) and REMOVEMAPPING (49) carry behind the header, as it lies in the request. Source:
// include/uapi/linux/fuse.h of Linux 6.18; distributions before 5.10 lack it.
inline constexpr std::uint64_t kSetupMappingWrite = 1;
inline constexpr std::uint64_t kSetupMappingRead = 2;

struct SetupMappingIn {
    std::uint64_t handle = 0;  // Linux: always all ones
    std::uint64_t file_offset = 0;
    std::uint64_t length_bytes = 0;
    std::uint64_t flags = 0;
    std::uint64_t window_offset = 0;
};
static_assert(sizeof(SetupMappingIn) == 40 && std::is_trivially_copyable_v<SetupMappingIn>);

struct RemoveMappingIn {
    std::uint32_t count = 0;  // the entries follow at once, unaligned
};
static_assert(sizeof(RemoveMappingIn) == 4 && std::is_trivially_copyable_v<RemoveMappingIn>);

struct RemoveMappingOne {
    std::uint64_t window_offset = 0;
    std::uint64_t length_bytes = 0;
};
static_assert(sizeof(RemoveMappingOne) == 16 && std::is_trivially_copyable_v<RemoveMappingOne>);

// How a request was read: 0, or a positive errno and the field that is wrong.
struct ParseOutcome {
    int error = 0;
    const char* field = "";
};

// The entries of a REMOVEMAPPING request: a view of its bytes, which must outlive it.
class RemoveMappingEntries {
public:
    RemoveMappingEntries() = default;
    explicit RemoveMappingEntries(std::span<const std::byte> bytes) noexcept : bytes_(bytes) {}
    [[nodiscard]] std::size_t size() const noexcept { return bytes_.size() / sizeof(RemoveMappingOne); }
    [[nodiscard]] RemoveMappingOne at(std::size_t index) const noexcept;  // index < size()

private:
    std::span<const std::byte> bytes_;
};

// Untrusted bytes behind the header; bytes beyond what a request needs are left alone. Contents (offsets, flags) are
// the session's to check.
[[nodiscard]] ParseOutcome parse_setup_mapping(std::span<const std::byte> bytes, SetupMappingIn& out) noexcept;
// At most `page_bytes` / 16 entries, the client's page size: Linux sends no more.
[[nodiscard]] ParseOutcome parse_remove_mapping(std::span<const std::byte> bytes, RemoveMappingEntries& out,
                                                std::uint64_t page_bytes = kPageBytes) noexcept;

}  // namespace vmthaw
