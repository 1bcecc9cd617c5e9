#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

#include "pager/region.hpp"

namespace vmthaw {

// Limits on what a VMM may send.
inline constexpr std::size_t kMaxHandoverBytes = 1U << 20U;
inline constexpr std::size_t kMaxHandoverRegions = 4096;

// Parses Firecracker's hand-over message (a bare JSON array of regions):
// {"base_host_virt_addr", "size", "offset", "page_size" and/or "page_size_kib" (bytes, too)}; unknown fields are
// accepted. The text is hostile: throws Error(HandoverError) whose `field` names what is wrong, and never anything
// else. guest_address is left 0: MemoryLayout fills it. Regions come back in the order sent.
[[nodiscard]] std::vector<Region> parse_handover_message(std::string_view text);

// True when `text` may be the beginning of a message that is not complete yet (the message arrived split).
[[nodiscard]] bool handover_message_is_incomplete(std::string_view text) noexcept;

}  // namespace vmthaw
