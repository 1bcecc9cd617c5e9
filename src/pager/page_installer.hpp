#pragma once

#include <cstddef>
#include <span>

#include "pager/fill_task.hpp"
#include "pager/session_core.hpp"

namespace vmthaw {

// What the calling thread brings to a fill.
struct FillContext {
    bool may_block = false;       // source threads may wait for the source, workers may not
    std::span<std::byte> bounce;  // for sources that cannot be mapped; a small page on workers
    std::uint16_t handler = 0;    // for traces
};

// Installs the pages of a FillTask: source -> zero, copy or continue -> wake -> one record. Decides afresh, run by
// run, under the gate held shared, what each page is now: a page that an event removed meanwhile is zeros.
// Noexcept, no allocation; safe on several threads at once.
class PageInstaller {
public:
    explicit PageInstaller(SessionCore& core) noexcept : core_(core) {}

    // Does as much of `task` as it can and cuts that off it. On need_source and again, the rest is still owned.
    [[nodiscard]] FillResult install(FillTask& task, const FillContext& context, FillFailure& failure) noexcept;
    // Gives up what is left of `task` but the demanded page: absent again, and whoever waits there faults again.
    void abandon_rest(FillTask& task) noexcept;
    // Gives up everything, the demanded page too, whose thread sleeps on until the caller wakes all of memory.
    void abandon(FillTask& task) noexcept;

private:
    struct Step {
        FillResult result = FillResult::done;
        std::uint64_t pages = 0;  // progress
    };
    // Pages of one kind that lie together, as found under the gate.
    struct Run {
        const MappedRegion* mapped = nullptr;
        std::uint64_t page = 0;
        std::uint64_t pages = 0;
        PageClass page_class = PageClass::data;
        bool demanded = false;

        [[nodiscard]] std::uint64_t address() const noexcept { return mapped->host_of(page); }
        [[nodiscard]] std::uint64_t bytes() const noexcept { return pages * mapped->region.page_size; }
        [[nodiscard]] std::uint64_t offset() const noexcept { return mapped->offset_of(page); }
    };
    // What was fetched for this step, mostly while the gate was open.
    struct Fetched {
        std::uint64_t offset = 0;
        std::uint64_t bytes = 0;
        bool in_bounce = false;  // or else where the source is mapped
        [[nodiscard]] bool covers(const Run& run) const noexcept {
            return bytes > 0 && run.offset() == offset && run.bytes() <= bytes;
        }
    };

    Step step(FillTask& task, std::uint64_t address, std::uint64_t max_pages, bool demanded, const FillContext& context,
              FillFailure& failure) noexcept;
    [[nodiscard]] Run find_run(const MappedRegion& mapped, std::uint64_t page, std::uint64_t max_pages,
                               bool demanded) const noexcept;
    [[nodiscard]] ReadResult fetch(const Fetched& wanted, const FillContext& context) noexcept;
    Step copy_run(FillTask& task, const Run& run, const Fetched& fetched, const FillContext& context,
                  FillFailure& failure) noexcept;
    Step zero_run(FillTask& task, const Run& run, const FillContext& context, FillFailure& failure) noexcept;
    Step conclude(FillTask& task, const Run& run, const FillOutcome& outcome, const FillContext& context,
                  FillFailure& failure) noexcept;
    Step answer_protected(const Run& run, std::uint8_t flags, FillFailure& failure) const noexcept;
    [[nodiscard]] FillOutcome install_zeros(const Run& run) const noexcept;
    [[nodiscard]] bool is_absent_after_all(const Run& run, std::uint64_t page) const noexcept;
    void account(const FillTask& task, const Run& run, std::uint64_t pages, const FillContext& context,
                 FaultOutcome outcome) noexcept;

    SessionCore& core_;
};

}  // namespace vmthaw
