#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "pager/guest_run.hpp"
#include "pager/page_installer.hpp"
#include "pager/session_core.hpp"

namespace vmthaw {

// Installs a recorded working set, by address, in batches of COPY with DONTWAKE: half the price of a fault. A page is
// claimed and installed under one hold of the session's gate, short enough for demand to go between; so nobody ever
// joins a claim of ours, and a thread whose unread fault a batch has answered is woken by the worker that reads it and
// finds the page present. Only absent pages are taken: removed ones stay zeros.
// step() by one thread at a time, cancel() by any. Noexcept, no allocation while all goes well.
class WorkingSetReplay {
public:
    enum class Progress : std::uint8_t {
        more,
        source,    // the next step waits for the source
        wait,      // an event is pending: try again a little later
        finished,  // or cancelled, or given up: demand will tell
        gone,      // the process has exited
    };

    WorkingSetReplay(SessionCore& core, GuestRuns runs, FaultKind kind) noexcept
        : core_(core), runs_(std::move(runs)), kind_(kind) {}

    // One batch. Where the bytes of the next page are not at hand, the step after the one that says so waits for the
    // source, with the gate open.
    [[nodiscard]] Progress step(const FillContext& context) noexcept;
    void cancel() noexcept { cancelled_.store(true, std::memory_order_relaxed); }
    // What could not be had, as a sentence; empty when all was well.
    [[nodiscard]] std::string complaint() const;

private:
    struct Run {
        const MappedRegion* mapped = nullptr;
        std::uint64_t page = 0;
        std::uint64_t pages = 0;
        bool is_zero = false;

        [[nodiscard]] std::uint64_t page_size() const noexcept { return mapped->region.page_size; }
        [[nodiscard]] std::uint64_t host_address() const noexcept { return mapped->host_of(page); }
        [[nodiscard]] std::uint64_t bytes() const noexcept { return pages * mapped->region.page_size; }
        [[nodiscard]] std::uint64_t offset() const noexcept { return mapped->offset_of(page); }
    };
    struct Fetched {
        std::uint64_t offset = 0;
        std::uint64_t bytes = 0;
        std::uint64_t pages = 0;
        std::uint64_t next = 0;  // the position behind them, in the run that they are of
        [[nodiscard]] bool covers(const Run& run) const noexcept {
            return bytes > 0 && run.offset() == offset && run.bytes() <= bytes;
        }
    };

    [[nodiscard]] bool find_next(Run& run, std::uint64_t limit_bytes) noexcept;
    [[nodiscard]] const MappedRegion* find_region(std::uint64_t guest_address, std::uint64_t& gap_bytes) noexcept;
    void measure(Run& run, std::uint64_t wanted_pages, std::uint64_t limit_pages) const noexcept;
    void go_beyond(const Run& run, std::uint64_t pages) noexcept;
    [[nodiscard]] const std::byte* bytes_of(const Run& run, const Fetched& fetched,
                                            const FillContext& context) const noexcept;
    [[nodiscard]] bool is_whole(const Run& run, std::uint64_t now_ns) const noexcept;
    [[nodiscard]] bool fetch(const Fetched& wanted, const FillContext& context) noexcept;
    [[nodiscard]] Progress install(Run run, const std::byte* bytes, const FillContext& context) noexcept;
    [[nodiscard]] Progress settle(const Run& run, const FillOutcome& outcome) noexcept;
    void record(const Run& run, std::uint64_t pages, std::uint64_t start_ns, const FillContext& context) noexcept;

    SessionCore& core_;
    const GuestRuns runs_;
    const FaultKind kind_;
    std::size_t index_ = 0;         // of the run under way
    std::uint64_t position_ = 0;    // in it, bytes
    std::size_t region_index_ = 0;  // where the last one was found
    Fetched wanted_;                // by the next step
    bool singly_ = false;           // the run crosses a mapping: page by page
    std::uint64_t foreign_bytes_ = 0;
    std::uint64_t unread_pages_ = 0;
    int errno_value_ = 0;  // of the kernel, which ended it
    std::atomic<bool> cancelled_{false};
};

}  // namespace vmthaw
