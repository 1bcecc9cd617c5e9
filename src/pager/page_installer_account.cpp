#include <bit>
#include <shared_mutex>

#include "base/clock.hpp"
#include "pager/page_installer.hpp"

// What is left of a fill: its record, or the claims it gives back.
namespace vmthaw {

void PageInstaller::account(const FillTask& task, const Run& run, std::uint64_t pages, const FillContext& context,
                            FaultOutcome outcome) noexcept {
    PagerCounters& counters = core_.counters;
    if (pages > 0) {
        bump(counters.installed, pages);
        if (run.page_class != PageClass::data) {
            bump(counters.zero, pages);
        } else {
            bump(counters.source_bytes, pages * run.mapped->region.page_size);
        }
        if (!run.demanded) {
            bump(task.kind == FaultKind::prefetch ? counters.populated : counters.fault_around, pages);
        } else if (task.kind == FaultKind::prewarm) {
            bump(counters.prewarmed);
        }
    }
    const bool timed = run.demanded && task.kind == FaultKind::demand && outcome != FaultOutcome::deferred;
    TraceRing* const trace = core_.trace.active();
    if (!timed && trace == nullptr) {
        return;
    }
    const std::uint64_t now_ns = monotonic_ns();
    if (timed) {
        counters.latency.add(now_ns - task.t_fault_ns);
    }
    if (trace != nullptr) {
        FaultRecord record;
        record.t_fault_ns = task.t_fault_ns;
        record.t_fetched_ns = run.page_class == PageClass::data ? task.t_fetched_ns : 0;
        record.t_installed_ns = now_ns;
        record.guest_address = run.mapped->guest_of(run.page);
        record.offset = run.offset();
        record.session = core_.id;
        record.pages = static_cast<std::uint32_t>(pages);
        record.tid = static_cast<std::int32_t>(task.tid);
        record.region = static_cast<std::uint16_t>(run.mapped->number);
        record.handler = context.handler;
        record.page_size_log2 = static_cast<std::uint8_t>(std::countr_zero(run.mapped->region.page_size));
        record.flags = task.flags;
        record.kind = run.demanded || task.kind == FaultKind::prefetch ? task.kind : FaultKind::fault_around;
        record.page_class = run.page_class;
        record.outcome = outcome;
        if (run.page_class != PageClass::data) {
            record.source = SourceTier::zero;
        } else {
            const bool mapped = core_.source->mapped(run.offset(), run.bytes()) != nullptr;
            record.source = mapped ? SourceTier::mapped : core_.source->tier(run.offset());
        }
        trace->record(record);
    }
}

void PageInstaller::abandon_rest(FillTask& task) noexcept {
    if (task.pages == 0) {
        return;
    }
    const std::shared_lock gate(core_.gate);
    for (std::uint64_t i = 0; i < task.pages; ++i) {
        const std::uint64_t address = task.host_address + i * task.page_size;
        if (task.demanded && address == task.demand_address) {
            continue;
        }
        if (const MappedRegion* mapped = core_.table.find(address)) {
            mapped->change(mapped->page_of(address), PageState::filling, PageState::absent);
        }
    }
    // Faults on these pages were left to this fill: let them come again.
    core_.uffd.wake(task.host_address, task.pages * task.page_size);
    task.pages = 0;
}

void PageInstaller::abandon(FillTask& task) noexcept {
    abandon_rest(task);
    if (!task.demanded) {
        return;
    }
    const std::shared_lock gate(core_.gate);
    if (const MappedRegion* mapped = core_.table.find(task.demand_address)) {
        const std::uint64_t page = mapped->page_of(task.demand_address);
        mapped->change(page, PageState::filling, PageState::absent);
        mapped->change(page, PageState::zeroing, PageState::removed);
    }
    task.demanded = false;
}

}  // namespace vmthaw
