#include "pager/trace_records.hpp"

#include <algorithm>
#include <bit>

#include "base/clock.hpp"

namespace vmthaw {
namespace {

FaultRecord record_at(const SessionCore& core, const MappedRegion& mapped, std::uint64_t page) noexcept {
    FaultRecord record;
    record.guest_address = mapped.guest_of(page);
    record.offset = mapped.offset_of(page);
    record.session = core.id;
    record.region = static_cast<std::uint16_t>(mapped.number);
    record.page_size_log2 = static_cast<std::uint8_t>(std::countr_zero(mapped.region.page_size));
    return record;
}

}  // namespace

void record_removal(const SessionCore& core, std::uint64_t start, std::uint64_t end) noexcept {
    TraceRing* const trace = core.trace.active();
    if (trace == nullptr) {
        return;
    }
    const std::uint64_t now_ns = monotonic_ns();
    for (const MappedRegion& mapped : core.table.regions()) {
        const std::uint64_t from = std::max(start, mapped.region.host_address);
        const std::uint64_t to = std::min(end, mapped.region.host_end());
        if (from >= to) {
            continue;
        }
        const std::uint64_t first = mapped.page_of(from);
        FaultRecord record = record_at(core, mapped, first);
        record.t_fault_ns = now_ns;
        record.pages = static_cast<std::uint32_t>(mapped.page_of(to - 1) - first + 1);
        record.kind = FaultKind::remove;
        record.page_class = PageClass::removed;
        trace->record(record);
    }
}

void record_failure(const SessionCore& core, const FillTask& task) noexcept {
    TraceRing* const trace = core.trace.active();
    const MappedRegion* mapped = trace != nullptr ? core.table.find(task.demand_address) : nullptr;
    if (mapped == nullptr) {
        return;  // in no region: there is nothing to say where
    }
    FaultRecord record = record_at(core, *mapped, mapped->page_of(task.demand_address));
    record.t_fault_ns = task.t_fault_ns;
    record.tid = static_cast<std::int32_t>(task.tid);
    record.flags = task.flags;
    record.kind = task.kind;
    record.outcome = FaultOutcome::failed;  // no page was installed
    trace->record(record);
}

}  // namespace vmthaw
