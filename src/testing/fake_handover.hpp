#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/unique_fd.hpp"
#include "testing/fake_vmm_memory.hpp"

namespace vmthaw::testing {

enum class PageSizeFields : std::uint8_t { both, page_size, page_size_kib, neither };
enum class SentDescriptor : std::uint8_t { userfaultfd, none, memfd };

// How a VMM hands over, and every way seen or imaginable of doing it badly.
struct FakeHandoverOptions {
    std::optional<std::string> text;  // instead of the true message; "" sends nothing
    PageSizeFields page_size_fields = PageSizeFields::both;
    bool unknown_fields = false;
    std::vector<std::uint64_t> splits;  // byte offsets at which a new part begins, ascending
    std::uint64_t part_delay_ns = 0;    // before each part but the first
    std::uint64_t descriptor_part = 0;  // the part that carries the descriptors
    SentDescriptor descriptor = SentDescriptor::userfaultfd;
    std::uint64_t surplus_descriptors = 0;  // after the first
    bool close_afterwards = false;
    std::uint64_t timeout_ns = 10'000'000'000;  // of connect and of each part
};

// What a stock VMM sends for this memory.
[[nodiscard]] std::string handover_text(const FakeVmmMemory& memory, PageSizeFields fields, bool unknown_fields);

// Connects to the UNIX socket ("@name": abstract) and sends one hand-over. Gives back the open connection, or none
// when it was to be closed. Throws SystemError (EAGAIN: timed out).
[[nodiscard]] UniqueFd send_handover(const std::string& socket_path, const FakeVmmMemory& memory,
                                     const FakeHandoverOptions& options);

}  // namespace vmthaw::testing
