#include "pager/page_installer.hpp"

#include <algorithm>
#include <cerrno>
#include <shared_mutex>

#include "base/clock.hpp"
#include "pager/huge_zeros.hpp"
#include "userfaultfd/page_presence.hpp"

namespace vmthaw {
namespace {

// A sequential toucher on another processor runs after the fill, catches up with it and sleeps once a step, so steps
// are long; while one lasts (0.15 ms) nobody reads messages, so they are not longer. Without the wakes (DONTWAKE) its
// messages would be read, found present and woken one by one, which is worse.
constexpr std::uint64_t kStepBytes = 512U << 10U;
constexpr std::uint64_t kZeroStepBytes = 2U << 20U;
constexpr std::uint16_t kPoolPatience = 20;  // parks of up to 2 ms before an empty huge page pool is a failure

// At least one page; more where a window goes over pages that were there before it.
std::uint64_t skip_present(const MappedRegion& mapped, std::uint64_t page, std::uint64_t max_pages) noexcept {
    const std::uint64_t limit = std::min(max_pages, mapped.region.pages() - page);
    std::uint64_t pages = 1;
    while (pages < limit && mapped.state(page + pages) == PageState::present) {
        ++pages;
    }
    return pages;
}

FillFailure at(const MappedRegion& mapped, std::uint64_t page) noexcept {
    return {.read = {}, .errno_value = 0, .host_address = mapped.host_of(page), .offset = mapped.offset_of(page)};
}

}  // namespace

FillResult PageInstaller::install(FillTask& task, const FillContext& context, FillFailure& failure) noexcept {
    // The touched page first and the rest after: half the p99 of installing all at once.
    if (task.demanded) {
        const std::uint64_t address = task.demand_address;
        const Step first = step(task, address, 1, true, context, failure);
        if (first.result != FillResult::done) {
            return first.result;
        }
        task.demanded = false;
        task.tries = 0;
    }
    while (task.pages > 0) {
        const Step next = step(task, task.host_address, task.pages, false, context, failure);
        task.host_address += next.pages * task.page_size;
        task.pages -= std::min(task.pages, next.pages);
        if (next.result != FillResult::done) {
            return next.result;
        }
    }
    return FillResult::done;
}

PageInstaller::Step PageInstaller::step(FillTask& task, std::uint64_t address, std::uint64_t max_pages, bool demanded,
                                        const FillContext& context, FillFailure& failure) noexcept {
    Fetched fetched;
    for (;;) {
        std::shared_lock gate(core_.gate);
        if (core_.closing.load(std::memory_order_relaxed)) {
            return {FillResult::gone, 0};
        }
        const MappedRegion* mapped = core_.table.find(address);
        if (mapped == nullptr) {
            // Unmapped meanwhile; the pages behind it may still be ours.
            core_.uffd.wake(address & ~(task.page_size - 1), task.page_size);
            return {FillResult::done, 1};
        }
        const std::uint64_t page = mapped->page_of(address);
        if (demanded && (task.flags & (kFaultWriteProtect | kFaultMinor)) != 0) {
            return answer_protected({mapped, page, 1, PageClass::data, true}, task.flags, failure);
        }
        const Run run = find_run(*mapped, page, max_pages, demanded);
        if (run.pages == 0) {
            // Present (or another fill's): nothing to do here, but whoever waits must look again. An event may have
            // taken the page from this fill, and with it the fault of a thread that had joined it.
            const PageState state = mapped->state(page);
            if (demanded && state == PageState::present && task.recheck) {
                return zero_run(task, {mapped, page, 1, PageClass::removed, true}, context, failure);
            }
            if (demanded ? state == PageState::present : state == PageState::removed || state == PageState::absent) {
                core_.uffd.wake(run.address(), mapped->region.page_size);
            }
            return {FillResult::done, demanded ? 1 : skip_present(*mapped, page, max_pages)};
        }
        if (run.page_class != PageClass::data) {
            return zero_run(task, run, context, failure);
        }
        if (!context.may_block && run.pages == 1 && run.bytes() <= context.bounce.size() &&
            core_.source->read_now(run.offset(), context.bounce.first(run.bytes()))) {
            fetched = {run.offset(), run.bytes(), true};
        }
        // A run across the end of the file may be ready and yet not be mapped: then it has to be read.
        const bool direct = core_.source->mapped(run.offset(), run.bytes()) != nullptr;
        if (!fetched.covers(run) && !(direct && core_.source->ready(run.offset(), run.bytes()))) {
            if (!context.may_block) {
                return {FillResult::need_source, 0};
            }
            // The gate is open while the source works, or a slow disk would hold up the VM's madvise.
            // An event may change the table meanwhile, so nothing that points into it is used until the gate is ours
            // again.
            const FillFailure here = at(*mapped, page);
            fetched = {run.offset(), run.bytes(), core_.source->mapped(run.offset(), run.bytes()) == nullptr};
            gate.unlock();
            const ReadResult read = fetch(fetched, context);
            if (!read.ok()) {
                failure = here;
                failure.read = read;
                return {FillResult::source_failed, 0};
            }
            continue;
        }
        return copy_run(task, run, fetched, context, failure);
    }
}

PageInstaller::Run PageInstaller::find_run(const MappedRegion& mapped, std::uint64_t page, std::uint64_t max_pages,
                                           bool demanded) const noexcept {
    Run run{&mapped, page, 0, PageClass::data, demanded};
    const PageState state = mapped.state(page);
    if (demanded && (state == PageState::removed || state == PageState::zeroing)) {
        run.page_class = PageClass::removed;
        run.pages = 1;
        return run;
    }
    if (demanded && state == PageState::absent) {
        mapped.set(page, PageState::filling);  // given back by somebody meanwhile
    } else if (state != PageState::filling) {
        return run;
    }
    const std::uint64_t page_size = mapped.region.page_size;
    std::uint64_t limit = std::min(max_pages, mapped.region.pages() - page);
    const Extent extent = core_.source->extent_at(mapped.offset_of(page), limit * page_size);
    if (extent.kind == ExtentKind::zero && extent.size >= page_size) {
        run.page_class = PageClass::zero;
        limit = std::min({limit, extent.size / page_size, std::max<std::uint64_t>(1, kZeroStepBytes / page_size)});
    } else {
        const std::uint64_t covered = (extent.size + page_size - 1) / page_size;
        limit = std::min({limit, covered, std::max<std::uint64_t>(1, kStepBytes / page_size)});
    }
    run.pages = 1;
    while (run.pages < limit && mapped.state(page + run.pages) == PageState::filling) {
        ++run.pages;
    }
    return run;
}

ReadResult PageInstaller::fetch(const Fetched& wanted, const FillContext& context) noexcept {
    if (!wanted.in_bounce) {
        return core_.source->prepare(wanted.offset, wanted.bytes);
    }
    if (wanted.bytes > context.bounce.size()) {
        return {.status = ReadStatus::io_error, .errno_value = ENOMEM, .got_bytes = 0};
    }
    return core_.source->read(wanted.offset, context.bounce.first(wanted.bytes));
}

PageInstaller::Step PageInstaller::copy_run(FillTask& task, const Run& run, const Fetched& fetched,
                                            const FillContext& context, FillFailure& failure) noexcept {
    const bool is_bounced = fetched.in_bounce && fetched.covers(run);
    const void* bytes = is_bounced ? context.bounce.data() : core_.source->mapped(run.offset(), run.bytes());
    if (bytes == nullptr) {
        return {FillResult::need_source, 0};  // ready, but only through read(): a source thread's work
    }
    if (!is_bounced || !context.may_block) {  // read() looks by itself
        // A cut zeroes the rest of its page: bytes of our own are right if the file was whole after they were copied.
        // Of a mapping the kernel copies later still, so no look is surely late enough, and one now and then does.
        if (const ReadResult whole = is_bounced ? core_.source->whole_at(run.offset())
                                                : core_.source->whole_lately(run.offset(), task.t_fault_ns);
            !whole.ok()) {
            failure = at(*run.mapped, run.page);
            failure.read = whole;
            failure.read.got_bytes = 0;  // it counts what the file has left; of this page nothing was taken
            return {FillResult::source_failed, 0};
        }
    }
    if (core_.trace.active() != nullptr) {
        task.t_fetched_ns = monotonic_ns();
    }
    return conclude(task, run, core_.uffd.copy(run.address(), bytes, run.bytes()), context, failure);
}

FillOutcome PageInstaller::install_zeros(const Run& run) const noexcept {
    if (run.mapped->region.page_size == 4096) {
        return core_.uffd.zero(run.address(), run.bytes());
    }
    return core_.uffd.copy(run.address(), huge_zeros(), run.mapped->region.page_size);
}

PageInstaller::Step PageInstaller::zero_run(FillTask& task, const Run& run, const FillContext& context,
                                            FillFailure& failure) noexcept {
    Run whole = run;
    if (run.mapped->region.page_size != 4096) {
        whole.pages = 1;
    }
    return conclude(task, whole, install_zeros(whole), context, failure);
}

PageInstaller::Step PageInstaller::conclude(FillTask& task, const Run& run, const FillOutcome& outcome,
                                            const FillContext& context, FillFailure& failure) noexcept {
    const std::uint64_t page_size = run.mapped->region.page_size;
    const std::uint64_t done = std::min(outcome.done_bytes / page_size, run.pages);
    for (std::uint64_t page = run.page; page < run.page + done; ++page) {
        run.mapped->set(page, PageState::present);
    }
    if (done > 0) {
        account(task, run, done, context, FaultOutcome::installed);
    }
    const std::uint64_t at_page = run.page + done;
    switch (outcome.status) {
        case FillStatus::done:
            return {FillResult::done, run.pages};
        case FillStatus::present:
            if (is_absent_after_all(run, at_page)) {
                // The pool is exhausted, or a shared page is cached but not mapped: its thread maps it when woken.
                core_.uffd.wake(run.mapped->host_of(at_page), page_size);
                if (task.parks < kPoolPatience) {
                    return {FillResult::again, done};
                }
                failure = at(*run.mapped, at_page);
                failure.errno_value = ENOMEM;
                return {FillResult::failed, done};
            }
            // Without the wake a thread that faulted before somebody else's install would sleep for ever.
            core_.uffd.wake(run.mapped->host_of(at_page), page_size);
            run.mapped->set(at_page, PageState::present);
            bump(core_.counters.redundant);
            account(task, {run.mapped, at_page, 1, run.page_class, run.demanded}, 0, context, FaultOutcome::present);
            return {FillResult::done, done + 1};
        case FillStatus::again:
            bump(core_.counters.deferred);
            account(task, {run.mapped, at_page, 1, run.page_class, run.demanded}, 0, context, FaultOutcome::deferred);
            return {FillResult::again, done};
        case FillStatus::unmapped:
            // Crosses a mapping, or lost its registration: page by page, and then this page is not ours.
            if (done > 0) {
                return {FillResult::done, done};  // the next step looks at what is left afresh
            }
            if (run.pages > 1) {
                const Run single{run.mapped, run.page, 1, run.page_class, run.demanded};
                const bool in_bounce = core_.source->mapped(run.offset(), run.bytes()) == nullptr;
                return run.page_class == PageClass::data
                           ? copy_run(task, single, {single.offset(), single.bytes(), in_bounce}, context, failure)
                           : zero_run(task, single, context, failure);
            }
            // A drain has nothing to give here and must not wait for it; if it is ever ours again, it was mapped anew:
            // zeros.
            run.mapped->change(at_page, PageState::filling,
                               task.kind == FaultKind::prefetch ? PageState::removed : PageState::absent);
            run.mapped->change(at_page, PageState::zeroing, PageState::removed);
            core_.uffd.wake(run.mapped->host_of(at_page), page_size);
            return {FillResult::done, 1};
        case FillStatus::gone:
            return {FillResult::gone, done};
        case FillStatus::bad_source:
            failure = at(*run.mapped, at_page);
            failure.read = core_.source->whole_at(failure.offset);
            if (failure.read.ok()) {
                failure.read = {.status = ReadStatus::io_error, .errno_value = EFAULT};
            }
            failure.read.got_bytes = 0;
            return {FillResult::source_failed, done};
        case FillStatus::no_memory:
        case FillStatus::invalid:
        case FillStatus::failed:
            break;
    }
    failure = at(*run.mapped, at_page);
    failure.errno_value = outcome.errno_value;
    return {FillResult::failed, done};
}

// EEXIST for a huge page has two meanings: it is there, or the pool is empty. Taking the second for the first is a
// livelock: wake, fault, EEXIST, wake.
bool PageInstaller::is_absent_after_all(const Run& run, std::uint64_t page) const noexcept {
    if (run.mapped->region.page_size == 4096) {
        return false;
    }
    return page_is_present(core_.pid_fd.pid(), run.mapped->host_of(page)) == std::optional<bool>(false);
}

PageInstaller::Step PageInstaller::answer_protected(const Run& run, std::uint8_t flags,
                                                    FillFailure& failure) const noexcept {
    const std::uint64_t page_size = run.mapped->region.page_size;
    const FillOutcome outcome = (flags & kFaultMinor) != 0 ? core_.uffd.continue_range(run.address(), page_size)
                                                           : core_.uffd.write_protect(run.address(), page_size, 0);
    switch (outcome.status) {
        case FillStatus::done:
        case FillStatus::present:
        case FillStatus::unmapped:
            core_.uffd.wake(run.address(), page_size);
            run.mapped->set(run.page, PageState::present);
            return {FillResult::done, 1};
        case FillStatus::again:
            return {FillResult::again, 0};
        case FillStatus::gone:
            return {FillResult::gone, 0};
        default:
            failure = at(*run.mapped, run.page);
            failure.errno_value = outcome.errno_value;
            return {FillResult::failed, 0};
    }
}

}  // namespace vmthaw
