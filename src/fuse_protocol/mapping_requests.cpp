#include "fuse_protocol/mapping_requests.hpp"

#include <cerrno>
#include <cstring>

namespace vmthaw {

RemoveMappingOne RemoveMappingEntries::at(std::size_t index) const noexcept {
    RemoveMappingOne one;
    std::memcpy(&one, bytes_.data() + index * sizeof one, sizeof one);  // 4 bytes past an aligned place
    return one;
}

ParseOutcome parse_setup_mapping(std::span<const std::byte> bytes, SetupMappingIn& out) noexcept {
    if (bytes.size() < sizeof out) {
        return {EINVAL, "length"};
    }
    std::memcpy(&out, bytes.data(), sizeof out);
    return {};
}

ParseOutcome parse_remove_mapping(std::span<const std::byte> bytes, RemoveMappingEntries& out,
                                  std::uint64_t page_bytes) noexcept {
    RemoveMappingIn in;
    if (bytes.size() < sizeof in) {
        return {EINVAL, "length"};
    }
    std::memcpy(&in, bytes.data(), sizeof in);
    const std::span<const std::byte> entries = bytes.subspan(sizeof in);
    if (in.count > page_bytes / sizeof(RemoveMappingOne)) {
        return {EINVAL, "count"};
    }
    if (in.count > entries.size() / sizeof(RemoveMappingOne)) {
        return {EINVAL, "entries"};
    }
    out = RemoveMappingEntries(entries.first(in.count * sizeof(RemoveMappingOne)));
    return {};
}

}  // namespace vmthaw
