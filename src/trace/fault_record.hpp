#pragma once

#include <cstdint>
#include <type_traits>

#include "base/source_tier.hpp"

namespace vmthaw {

// Why pages were installed (or taken away).
enum class FaultKind : std::uint8_t { demand, fault_around, prefetch, prewarm, remove };
// What the pages held.
enum class PageClass : std::uint8_t { data, zero, removed };
// How it ended.
enum class FaultOutcome : std::uint8_t { installed, present, deferred, failed };

// Bits of FaultRecord::flags.
inline constexpr std::uint8_t kRecordWrite = 1;
inline constexpr std::uint8_t kRecordWriteProtect = 2;
inline constexpr std::uint8_t kRecordMinor = 4;

// One event of a fault trace: the columns of a trace file, in one cache line without padding, so that it can be copied
// as bytes and read by numpy. Times are CLOCK_MONOTONIC; 0 means "did not happen".
struct FaultRecord {
    std::uint64_t t_fault_ns = 0;      // the kernel's message was read
    std::uint64_t t_fetched_ns = 0;    // the bytes were there
    std::uint64_t t_installed_ns = 0;  // the page was installed and the toucher woken
    std::uint64_t guest_address = 0;   // of the first page, guest physical
    std::uint64_t offset = 0;          // of the first page in the source, bytes
    std::uint32_t session = 0;
    std::uint32_t pages = 0;  // installed by this fill
    std::int32_t tid = 0;     // who faulted; 0 without UFFD_FEATURE_THREAD_ID
    std::uint16_t region = 0;
    std::uint16_t handler = 0;  // which worker
    std::uint8_t page_size_log2 = 12;
    std::uint8_t flags = 0;
    FaultKind kind = FaultKind::demand;
    PageClass page_class = PageClass::data;
    FaultOutcome outcome = FaultOutcome::installed;
    SourceTier source = SourceTier::none;
    std::uint8_t layer = 0;     // of a layered source, from the top
    std::uint8_t reserved = 0;  // always 0
};

static_assert(sizeof(FaultRecord) == 64 && std::is_trivially_copyable_v<FaultRecord>);
static_assert(std::has_unique_object_representations_v<FaultRecord>, "padding would leak into trace files");

}  // namespace vmthaw
