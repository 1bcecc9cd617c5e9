#include "pager/working_set_replay.hpp"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <shared_mutex>
#include <system_error>
#include <utility>

#include "base/clock.hpp"
#include "kernel/userfaultfd.hpp"
#include "pager/huge_zeros.hpp"
#include "userfaultfd/page_presence.hpp"

namespace vmthaw {
namespace {

// While a batch lasts (50 us) nobody reads messages: bounded by what it copies and by how often it calls the kernel.
constexpr std::uint64_t kBatchBytes = 128U << 10U;
constexpr int kBatchCalls = 16;
constexpr std::uint64_t kZeroBatchBytes = 2U << 20U;
constexpr std::uint64_t kSmallPage = 4096;
// A source that is down answers every read with its time-out: demand must not stand behind all of them.
constexpr std::uint64_t kMostUnread = 64;

}  // namespace

WorkingSetReplay::Progress WorkingSetReplay::step(const FillContext& context) noexcept {
    const Fetched fetched = std::exchange(wanted_, {});
    if (fetched.bytes > 0 && !fetch(fetched, context)) {
        unread_pages_ += fetched.pages;
        position_ = fetched.next;
        return Progress::more;
    }
    std::uint64_t left_bytes = kBatchBytes;
    const std::uint64_t now_ns = monotonic_ns();
    const std::shared_lock gate(core_.gate);
    for (int calls = 0; left_bytes > 0 && calls < kBatchCalls; ++calls) {
        if (cancelled_.load(std::memory_order_relaxed) || core_.closing.load(std::memory_order_relaxed) ||
            unread_pages_ >= kMostUnread) {
            return Progress::finished;
        }
        Run run;
        if (!find_next(run, left_bytes)) {
            return Progress::finished;
        }
        const std::byte* bytes = run.is_zero ? nullptr : bytes_of(run, fetched, context);
        if (!run.is_zero && bytes == nullptr) {
            // Values: until the next step an event may have moved or taken what `run` points to.
            wanted_ = {run.offset(), run.bytes(), run.pages,
                       run.mapped->guest_of(run.page + run.pages) - (*runs_)[index_].guest_address};
            return Progress::source;
        }
        if (!run.is_zero && !is_whole(run, now_ns)) {
            unread_pages_ = kMostUnread;
            return Progress::finished;
        }
        left_bytes -= std::min(left_bytes, run.is_zero ? kSmallPage : run.bytes());
        const Progress progress = install(run, bytes, context);
        if (progress != Progress::more) {
            return progress;
        }
    }
    return Progress::more;
}

// The region, or the distance to the next one.
const MappedRegion* WorkingSetReplay::find_region(std::uint64_t guest_address, std::uint64_t& gap_bytes) noexcept {
    const std::vector<MappedRegion>& regions = core_.table.regions();
    const auto holds = [guest_address](const MappedRegion& mapped) {
        return guest_address >= mapped.region.guest_address &&
               guest_address - mapped.region.guest_address < mapped.region.size;
    };
    if (region_index_ < regions.size() && holds(regions[region_index_])) {
        return &regions[region_index_];
    }
    gap_bytes = ~std::uint64_t{0};
    for (std::size_t i = 0; i < regions.size(); ++i) {
        if (holds(regions[i])) {
            region_index_ = i;
            return &regions[i];
        }
        if (regions[i].region.guest_address > guest_address) {
            gap_bytes = std::min(gap_bytes, regions[i].region.guest_address - guest_address);
        }
    }
    return nullptr;
}

// Moves on to the next absent pages; false at the end.
bool WorkingSetReplay::find_next(Run& run, std::uint64_t limit_bytes) noexcept {
    for (; index_ < runs_->size(); ++index_, position_ = 0, singly_ = false) {
        const GuestRun& wanted = (*runs_)[index_];
        while (position_ < wanted.size) {
            const std::uint64_t address = wanted.guest_address + position_;
            std::uint64_t gap_bytes = 0;
            const MappedRegion* mapped = find_region(address, gap_bytes);
            if (mapped == nullptr) {
                gap_bytes = std::min(gap_bytes, wanted.size - position_);
                foreign_bytes_ += gap_bytes;
                position_ += gap_bytes;
                continue;
            }
            const Region& region = mapped->region;
            const std::uint64_t last = std::min(wanted.end(), region.guest_end()) - 1 - region.guest_address;
            const std::uint64_t end = std::min(region.pages(), last / region.page_size + 1);
            std::uint64_t page = (address - region.guest_address) / region.page_size;
            while (page < end && mapped->state(page) != PageState::absent) {
                ++page;
            }
            run = {mapped, page, 0, false};
            if (page == end) {
                go_beyond(run, 0);
                continue;
            }
            go_beyond(run, 0);
            const std::uint64_t limit_pages = std::max<std::uint64_t>(1, limit_bytes / region.page_size);
            measure(run, singly_ ? 1 : end - page, limit_pages);
            return true;
        }
    }
    return false;
}

// How far the pages go that are absent and of one kind.
void WorkingSetReplay::measure(Run& run, std::uint64_t wanted_pages, std::uint64_t limit_pages) const noexcept {
    const std::uint64_t page_size = run.page_size();
    const Extent extent = core_.source->extent_at(run.offset(), wanted_pages * page_size);
    run.is_zero = extent.kind == ExtentKind::zero && extent.size >= page_size;
    std::uint64_t limit = 1;
    if (run.is_zero) {
        limit = page_size == kSmallPage ? std::min(extent.size, kZeroBatchBytes) / page_size : 1;
    } else {
        limit = std::min(limit_pages, (extent.size + page_size - 1) / page_size);
    }
    limit = std::min(limit, wanted_pages);
    run.pages = 1;
    while (run.pages < limit && run.mapped->state(run.page + run.pages) == PageState::absent) {
        ++run.pages;
    }
}

// The next look begins behind `pages` pages of the run.
void WorkingSetReplay::go_beyond(const Run& run, std::uint64_t pages) noexcept {
    const GuestRun& wanted = (*runs_)[index_];
    const std::uint64_t next = run.mapped->guest_of(run.page + pages);
    if (next > wanted.guest_address) {
        position_ = std::max(position_, next - wanted.guest_address);
    }
}

// Where the run can be copied from now; null: it has to be fetched.
const std::byte* WorkingSetReplay::bytes_of(const Run& run, const Fetched& fetched,
                                            const FillContext& context) const noexcept {
    const std::byte* direct = core_.source->mapped(run.offset(), run.bytes());
    if (fetched.covers(run)) {
        return direct != nullptr ? direct : context.bounce.data();
    }
    // First: ready() would look at, and map, all that lies around a page that nobody saw before, two thirds of what a
    // scattered working set costs.
    if (run.bytes() <= context.bounce.size() &&
        core_.source->read_now(run.offset(), context.bounce.first(run.bytes()))) {
        return context.bounce.data();
    }
    return direct != nullptr && core_.source->ready(run.offset(), run.bytes()) ? direct : nullptr;
}

// A file that was cut answers EFAULT behind its new end, but the page that the end now lies in looks whole. As with
// faults: what has no mapping is looked at after each copy.
bool WorkingSetReplay::is_whole(const Run& run, std::uint64_t now_ns) const noexcept {
    const bool is_mapped = core_.source->mapped(run.offset(), run.bytes()) != nullptr;
    return (is_mapped ? core_.source->whole_lately(run.offset(), now_ns) : core_.source->whole_at(run.offset())).ok();
}

bool WorkingSetReplay::fetch(const Fetched& wanted, const FillContext& context) noexcept {
    if (core_.source->mapped(wanted.offset, wanted.bytes) != nullptr) {
        return core_.source->prepare(wanted.offset, wanted.bytes).ok();
    }
    if (wanted.bytes > context.bounce.size()) {
        return false;
    }
    return core_.source->read(wanted.offset, context.bounce.first(wanted.bytes)).ok();
}

WorkingSetReplay::Progress WorkingSetReplay::install(Run run, const std::byte* bytes,
                                                     const FillContext& context) noexcept {
    // Others fill beside us under the gate held shared, each what it has claimed.
    std::uint64_t claimed = 0;
    while (claimed < run.pages && run.mapped->change(run.page + claimed, PageState::absent, PageState::filling)) {
        ++claimed;
    }
    if (claimed == 0) {
        return Progress::more;  // the next look finds what is there now
    }
    run.pages = claimed;
    const std::uint64_t start_ns = core_.trace.active() != nullptr ? monotonic_ns() : 0;
    FillOutcome outcome;
    if (!run.is_zero) {
        outcome = core_.uffd.copy(run.host_address(), bytes, run.bytes(), kModeDontWake);
    } else if (run.page_size() == kSmallPage) {
        outcome = core_.uffd.zero(run.host_address(), run.bytes(), kModeDontWake);
    } else {
        outcome = core_.uffd.copy(run.host_address(), huge_zeros(), run.bytes(), kModeDontWake);
    }
    const std::uint64_t done = std::min(outcome.done_bytes / run.page_size(), run.pages);
    for (std::uint64_t page = run.page; page < run.page + done; ++page) {
        run.mapped->set(page, PageState::present);
    }
    // Before anybody can read a message and join it: nobody waits for these.
    for (std::uint64_t page = run.page + done; page < run.page + run.pages; ++page) {
        run.mapped->set(page, PageState::absent);
    }
    if (done > 0) {
        record(run, done, start_ns, context);
        go_beyond(run, done);
    }
    return settle({run.mapped, run.page + done, run.pages - done, run.is_zero}, outcome);
}

// `run` is what was not installed.
WorkingSetReplay::Progress WorkingSetReplay::settle(const Run& run, const FillOutcome& outcome) noexcept {
    switch (outcome.status) {
        case FillStatus::done:
            return Progress::more;
        case FillStatus::present:
            if (run.page_size() != kSmallPage &&
                page_is_present(core_.pid_fd.pid(), run.host_address()) == std::optional<bool>(false)) {
                errno_value_ = ENOMEM;  // the pool is exhausted: what is left of it is for demand
                return Progress::finished;
            }
            run.mapped->set(run.page, PageState::present);
            bump(core_.counters.redundant);
            go_beyond(run, 1);
            return Progress::more;
        case FillStatus::again:
            bump(core_.counters.deferred);
            return Progress::wait;
        case FillStatus::unmapped:
            if (run.pages == 1) {
                go_beyond(run, 1);
            }
            singly_ = true;
            return Progress::more;
        case FillStatus::gone:
            return Progress::gone;
        case FillStatus::bad_source:
            ++unread_pages_;
            go_beyond(run, 1);
            return Progress::more;
        case FillStatus::no_memory:
        case FillStatus::invalid:
        case FillStatus::failed:
            break;
    }
    errno_value_ = outcome.errno_value;
    return Progress::finished;
}

void WorkingSetReplay::record(const Run& run, std::uint64_t pages, std::uint64_t start_ns,
                              const FillContext& context) noexcept {
    PagerCounters& counters = core_.counters;
    bump(counters.installed, pages);
    bump(counters.prefetched, pages);
    if (run.is_zero) {
        bump(counters.zero, pages);
    } else {
        bump(counters.source_bytes, pages * run.page_size());
    }
    TraceRing* const trace = core_.trace.active();
    if (trace == nullptr) {
        return;
    }
    FaultRecord record;
    record.t_fault_ns = start_ns;
    record.t_fetched_ns = run.is_zero ? 0 : start_ns;
    record.t_installed_ns = monotonic_ns();
    record.guest_address = run.mapped->guest_of(run.page);
    record.offset = run.offset();
    record.session = core_.id;
    record.pages = static_cast<std::uint32_t>(pages);
    record.region = static_cast<std::uint16_t>(run.mapped->number);
    record.handler = context.handler;
    record.page_size_log2 = static_cast<std::uint8_t>(std::countr_zero(run.page_size()));
    record.kind = kind_;
    record.page_class = run.is_zero ? PageClass::zero : PageClass::data;
    record.source = SourceTier::zero;
    if (!run.is_zero) {
        const bool direct = core_.source->mapped(run.offset(), pages * run.page_size()) != nullptr;
        record.source = direct ? SourceTier::mapped : core_.source->tier(run.offset());
    }
    trace->record(record);
}

std::string WorkingSetReplay::complaint() const {
    std::string text;
    const auto add = [&text](const std::string& more) { text += (text.empty() ? "" : "; ") + more; };
    if (unread_pages_ > 0) {
        add(unread_pages_ >= kMostUnread ? "given up because the source fails; their faults will tell"
                                         : std::to_string(unread_pages_) + " pages could not be read");
    }
    if (foreign_bytes_ > 0) {
        add(std::to_string(foreign_bytes_) + " bytes of it are in no region: is it this VM's?");
    }
    if (errno_value_ != 0) {
        add("given up: " + std::generic_category().message(errno_value_));
    }
    return text.empty() ? text : "working set: " + text;
}

}  // namespace vmthaw
