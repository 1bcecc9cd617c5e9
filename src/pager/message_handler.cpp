#include "pager/message_handler.hpp"

#include <cerrno>
#include <mutex>

#include "base/clock.hpp"
#include "base/log.hpp"
#include "pager/trace_records.hpp"

namespace vmthaw {
namespace {

// Pages looked at for the next absent one, under the gate: 0.2 us.
constexpr std::uint64_t kFarthestNext = 512;

}  // namespace

std::uint64_t MessageHandler::smallest_page(const SessionCore& core) noexcept {
    std::uint64_t smallest = ~std::uint64_t{0};
    for (const MappedRegion& mapped : core.table.regions()) {
        smallest = std::min(smallest, mapped.region.page_size);
    }
    return smallest;
}

void MessageHandler::read(MessageBatch& batch) noexcept {
    batch.message_count = 0;
    batch.task_count = 0;
    batch.foreign_count = 0;
    batch.errno_value = 0;
    const std::lock_guard gate(core_.gate);
    if (core_.closing.load(std::memory_order_relaxed)) {
        batch.errno_value = ESHUTDOWN;
        return;
    }
    const ReadOutcome read = core_.uffd.read(messages_);
    batch.errno_value = read.errno_value;
    batch.message_count = read.count;
    if (read.count == 0) {
        return;
    }
    const std::uint64_t now_ns = monotonic_ns();
    for (std::size_t i = 0; i < read.count; ++i) {
        if (messages_[i].event != kEventPagefault) {
            apply_event(messages_[i], batch);
        }
    }
    for (std::size_t i = 0; i < read.count; ++i) {
        if (messages_[i].event == kEventPagefault) {
            plan_fault(messages_[i], now_ns, batch);
        }
    }
}

void MessageHandler::apply_event(const UffdMessage& message, MessageBatch& batch) noexcept {
    bump(core_.counters.events);
    // The kernel is trusted with memory, and yet a range that runs backwards must not take us with it.
    try {
        switch (message.event) {
            case kEventRemove:
                bump(core_.counters.removed, core_.table.remove(message.arg.remove.start, message.arg.remove.end));
                record_removal(core_, message.arg.remove.start, message.arg.remove.end);
                return;
            case kEventUnmap:
                if (message.arg.remove.start < message.arg.remove.end) {
                    core_.table.unmap(message.arg.remove.start, message.arg.remove.end);
                }
                return;
            case kEventRemap:
                core_.table.remap(message.arg.remap.from, message.arg.remap.to, message.arg.remap.len);
                return;
            case kEventFork:
                batch.forked.push_back({UniqueFd(static_cast<int>(message.arg.fork.ufd)), core_.table.clone()});
                return;
            default:
                break;
        }
    } catch (const std::exception& error) {
        log_line(LogLevel::error, "pager", error.what());
        return;
    }
    if (core_.counters.forwarded.fetch_add(1, std::memory_order_relaxed) == 0) {
        log_line(LogLevel::warning, "pager", "an unknown userfaultfd event was ignored");
    }
}

void MessageHandler::plan_fault(const UffdMessage& message, std::uint64_t now_ns, MessageBatch& batch) noexcept {
    bump(core_.counters.faults);
    const std::uint64_t address = message.arg.pagefault.address;
    const MappedRegion* mapped = core_.table.find(address);
    if (mapped == nullptr) {
        batch.foreign[batch.foreign_count++] = address;
        return;
    }
    const std::uint64_t page = mapped->page_of(address);
    FillTask task;
    task.page_size = mapped->region.page_size;
    task.demand_address = mapped->host_of(page);
    task.host_address = task.demand_address;
    task.demanded = true;
    task.t_fault_ns = now_ns;
    task.tid = message.arg.pagefault.tid;
    core_.last_tid.store(task.tid, std::memory_order_relaxed);
    task.flags = static_cast<std::uint8_t>(message.arg.pagefault.flags);
    if ((task.flags & (kFaultWriteProtect | kFaultMinor)) == 0) {
        switch (mapped->state(page)) {
            case PageState::absent:
                plan_absent(*mapped, page, task);
                break;
            case PageState::removed:
                mapped->set(page, PageState::zeroing);
                break;
            case PageState::filling:
            case PageState::zeroing:
                bump(core_.counters.coalesced);
                return;  // whoever claimed it wakes every waiter
            case PageState::present:
                // Woken already, or taken away without an event (no EVENT_REMOVE, a hole punched): then it is zeros.
                task.recheck = true;
                break;
            case PageState::failed:
                task.doomed = true;
                break;
        }
    }
    batch.add(task);
}

void MessageHandler::plan_absent(const MappedRegion& mapped, std::uint64_t page, FillTask& task) noexcept {
    const std::uint64_t page_size = mapped.region.page_size;
    // In pages of the whole address space, so that two regions never look like one stream.
    const std::uint64_t base = mapped.region.host_address / page_size;
    FillPlan plan = planner_.plan(base + page, base, base + mapped.region.pages());
    // The planner counts in the smallest pages; of huge ones beside them, fill_bytes holds fewer.
    if (plan.pages * page_size > core_.config.fill_bytes) {
        plan = {base + page, std::max<std::uint64_t>(1, core_.config.fill_bytes / page_size)};
        plan.pages = std::min(plan.pages, mapped.region.pages() - page);
    }
    mapped.set(page, PageState::filling);
    // Over pages that are there already (a working set's), or a scan would fault once for each gap between them.
    const std::uint64_t limit = plan.first_page + plan.pages - base;
    std::uint64_t end = page + 1;
    for (std::uint64_t next = end; next < limit; ++next) {
        if (mapped.change(next, PageState::absent, PageState::filling)) {
            end = next + 1;
        } else if (mapped.state(next) != PageState::present) {
            break;
        }
    }
    std::uint64_t first = page;
    while (first > plan.first_page - base && mapped.change(first - 1, PageState::absent, PageState::filling)) {
        --first;
    }
    // Where a scan will fault next.
    std::uint64_t next = end;
    const bool is_stream = core_.config.fill_mode == FillMode::window;
    const std::uint64_t farthest = is_stream ? std::min(mapped.region.pages(), end + kFarthestNext) : end;
    while (next < farthest && mapped.state(next) == PageState::present) {
        ++next;
    }
    planner_.filled({base + first, next - first});
    // Installed first and by itself, so it need not be looked at again when it is the first.
    if (first == page) {
        ++first;
    }
    task.host_address = mapped.host_of(first);
    task.pages = end - first;
}

}  // namespace vmthaw
