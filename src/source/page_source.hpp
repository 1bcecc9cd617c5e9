#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "base/fork_guard.hpp"
#include "base/source_tier.hpp"

namespace vmthaw {

// What a range of a source is: bytes, zeros (never read), or "not here, ask the layer below" (diffs only).
enum class ExtentKind : std::uint8_t { data, zero, unchanged };

struct Extent {
    std::uint64_t offset;
    std::uint64_t size;
    ExtentKind kind;
};

// Why a read failed, for the fault path, which does not throw.
enum class ReadStatus : std::uint8_t { ok, short_read, io_error, out_of_range, closed };

struct ReadResult {
    ReadStatus status = ReadStatus::ok;
    int errno_value = 0;          // for io_error
    std::uint64_t got_bytes = 0;  // for short_read
    // An offset in what failed, of a source that is made of several; none: what lies at the range's beginning.
    std::optional<std::uint64_t> failed_at{};
    [[nodiscard]] bool ok() const noexcept { return status == ReadStatus::ok; }
};

// Where page bytes come from. Offsets are bytes into the memory file. Thread-safe: any number of threads at once.
// The fault path calls only the noexcept functions. read() and prepare() may block and then run on source threads
// only, unless ready() said that they will not.
class PageSource {
public:
    PageSource() = default;
    PageSource(const PageSource&) = delete;
    PageSource& operator=(const PageSource&) = delete;
    PageSource(PageSource&&) = delete;
    PageSource& operator=(PageSource&&) = delete;
    virtual ~PageSource() = default;

    // First offset served, and the size in bytes behind it (as it was at open).
    [[nodiscard]] virtual std::uint64_t start() const noexcept { return 0; }
    [[nodiscard]] virtual std::uint64_t size() const noexcept = 0;
    // True when [offset, offset + size) can be served, be it as zeros behind the end of the file (by its own policy).
    [[nodiscard]] virtual bool covers(std::uint64_t offset, std::uint64_t size) const noexcept = 0;

    // The kind at `offset` and how far it goes from there (at most `limit` bytes, never 0). O(log extents).
    [[nodiscard]] virtual Extent extent_at(std::uint64_t offset, std::uint64_t limit) const noexcept = 0;

    // Fills `out` with the bytes at `offset`, holes as zeros. All or nothing.
    [[nodiscard]] virtual ReadResult read(std::uint64_t offset, std::span<std::byte> out) noexcept = 0;

    // Address from which [offset, offset + size) can be copied without a bounce buffer, or null. The bytes may lie on a
    // file that shrinks: only the kernel (UFFDIO_COPY, pread) may read them; a user-space load could die of SIGBUS.
    [[nodiscard]] virtual const std::byte* mapped(std::uint64_t /*offset*/, std::uint64_t /*size*/) const noexcept {
        return nullptr;
    }
    // True when the range can be installed now without waiting for a disk, a network or Python: the fault thread
    // then does it itself. Otherwise a source thread calls prepare() (or read()) first. Cheap: a bit test mostly.
    [[nodiscard]] virtual bool ready(std::uint64_t /*offset*/, std::uint64_t /*size*/) noexcept { return false; }
    // Fills `out`, one page, with the bytes at `offset` where that takes no waiting and costs less than mapped() would:
    // a lone page of a mapping is dear, because the kernel maps its neighbours with it. False: try mapped() and
    // ready().
    [[nodiscard]] virtual bool read_now(std::uint64_t /*offset*/, std::span<std::byte> /*out*/) noexcept {
        return false;
    }
    // Brings [offset, offset + size) to where mapped() reads it without blocking. May block.
    [[nodiscard]] virtual ReadResult prepare(std::uint64_t /*offset*/, std::uint64_t /*size*/) noexcept { return {}; }
    // That the source is still what it was at open (a file did not shrink). A system call for each file, mostly.
    [[nodiscard]] virtual ReadResult still_whole() const noexcept { return {}; }
    // The same of what lies at `offset` alone: after read_now(), or after a page from there could not be copied.
    [[nodiscard]] virtual ReadResult whole_at(std::uint64_t /*offset*/) const noexcept { return still_whole(); }
    // The same of where a run that mapped() gave begins; once found whole it is not asked again for a millisecond.
    // Checked before such a run is installed; `now_ns` is of monotonic_ns().
    [[nodiscard]] virtual ReadResult whole_lately(std::uint64_t offset, std::uint64_t now_ns) const noexcept;

    // True after close() and in a forked child. Cheaper than still_whole() where there are many files.
    [[nodiscard]] virtual bool is_closed() const noexcept { return still_whole().status == ReadStatus::closed; }

    // All extents in order, neighbours of one kind joined. May allocate: not for the fault path.
    [[nodiscard]] virtual std::vector<Extent> extents() const = 0;
    // Where read() gets the bytes at `offset` from, for traces: the name of the tier, not of the layer.
    [[nodiscard]] virtual SourceTier tier(std::uint64_t /*offset*/) const noexcept { return SourceTier::file; }
    // For messages, traces and statistics: "file:/path", "zero", "python:name".
    [[nodiscard]] virtual std::string description() const = 0;
    // How to mend what made a read fail, as the end of a message; "" when there is nothing to add. Of several layers
    // the one at result.failed_at speaks.
    [[nodiscard]] virtual std::string remedy(const ReadResult& /*result*/) const { return {}; }
    // The same for messages about what lies at `offset`: names the layer, where there are several.
    [[nodiscard]] virtual std::string description_at(std::uint64_t /*offset*/) const { return description(); }
    // Ends the source: later reads answer `closed`, waiting ones end. Idempotent. What mapped() gave out stays valid
    // until the object dies, so that a fault thread in the middle of a copy is never cut off.
    virtual void close() noexcept {}

    // True in a child that got this object through fork(): reads answer `closed` there.
    [[nodiscard]] bool inherited() const noexcept { return fork_guard_.inherited(); }

private:
    ForkGuard fork_guard_;
    mutable std::atomic<std::uint64_t> seen_whole_ns_{0};
};

// Ranges behind the end of a memory are zeros to the end of the last page asked for. The size of the pages that a range
// speaks in is the largest power of two from 4 KiB to 2 MiB that divides its size.
inline constexpr std::uint64_t kLargestSourcePage = 2 * 1024 * 1024;
[[nodiscard]] std::uint64_t page_spoken_of(std::uint64_t range_size) noexcept;

// Turns a failed ReadResult into the exception of the same meaning: ShortReadError, SourceIoError, ...
[[noreturn]] void throw_read_error(const PageSource& source, std::uint64_t offset, std::uint64_t size,
                                   const ReadResult& result);

}  // namespace vmthaw
