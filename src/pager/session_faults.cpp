#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <random>
#include <shared_mutex>
#include <system_error>

#include "base/clock.hpp"
#include "base/log.hpp"
#include "pager/pager_session.hpp"
#include "pager/trace_records.hpp"

// The fault path of PagerSession: from a readable descriptor to every fault installed, parked or failed.
namespace vmthaw {
namespace {

constexpr std::uint64_t kFirstParkNs = 50'000;
constexpr std::uint64_t kLongestParkNs = 2'000'000;
constexpr std::uint64_t kReadAgainNs = 10'000'000;
constexpr std::size_t kKeptFailures = 64;

std::string errno_text(int errno_value) { return std::generic_category().message(errno_value); }

}  // namespace

void PagerSession::serve(std::uint16_t worker) noexcept { serve_messages(worker, true); }

// The fault path: no lock but the gate, no allocation, no GIL, no log.
void PagerSession::serve_messages(std::uint16_t handler, bool may_reread) noexcept {
    // The kernel cuts a batch short before a FORK whose descriptor it cannot give us.
    const bool may_be_short = core_.uffd.features().has(Feature::event_fork);
    MessageBatch batch;
    unsigned rereads = 0;
    bool is_reread = false;
    for (bool goes_on = true; goes_on;) {
        handler_.read(batch);
        switch (batch.errno_value) {
            case 0:
                break;
            case EAGAIN:
                if (is_reread) {
                    reread_chance_.note(false);
                }
                return;
            case ESHUTDOWN:
                return;
            case ESRCH:
                end(EndReason::vm_exited);
                return;
            default:
                read_later(batch.errno_value);
                return;
        }
        if (is_reread) {
            reread_chance_.note(true);
        }
        answer(batch, handler);
        const bool is_cut = batch.message_count == MessageBatch::kMessages || (may_be_short && batch.message_count > 0);
        is_reread = may_reread && !is_cut && reread_chance_.is_good(rereads);
        rereads += is_reread ? 1U : 0U;
        goes_on = is_cut || is_reread;
    }
}

// A message stays where it is: a FORK while this process is out of descriptors (EMFILE). Edge-triggered epoll does not
// tell of it again, and until it is read the VM can neither fork nor be filled.
void PagerSession::read_later(int errno_value) noexcept {
    if (!unreadable_.exchange(true)) {
        log_line(LogLevel::error, "pager",
                 label_ + ": a message of its userfaultfd cannot be read yet: " + errno_text(errno_value));
    }
    runtime_.retry_lane().submit({shared_from_this(), LaneWork::read, {}}, kReadAgainNs);
}

void PagerSession::answer(MessageBatch& batch, std::uint16_t handler) noexcept {
    alignas(64) std::array<std::byte, 4096> page;  // NOLINT: filled before it is read; zeroing it would cost 0.1 us
    FillContext context;
    context.handler = handler;
    context.bounce = page;
    for (std::size_t i = 0; i < batch.task_count; ++i) {
        execute(batch.task(i), context);
    }
    if (batch.task_count > 0 && !first_fault_seen_.load(std::memory_order_relaxed) &&
        !first_fault_seen_.exchange(true)) {
        notify(SessionEventKind::first_fault);
    }
    for (std::size_t i = 0; i < batch.foreign_count; ++i) {
        fail_foreign(batch.foreign[i]);
    }
    for (MessageBatch::ForkedChild& child : batch.forked) {
        adopt_child(std::move(child));
    }
    batch.forked.clear();
}

void PagerSession::execute(FillTask task, const FillContext& context) noexcept {
    if (task.doomed) {
        fail_page(task, "");
        return;
    }
    FillFailure failure;
    switch (installer_.install(task, context, failure)) {
        case FillResult::done:
            finish(task);
            return;
        case FillResult::need_source:
            defer(task, true, 0);
            return;
        case FillResult::again:
            // The madvise thread has to run first: wait for it, do not spin against it.
            defer(task, false, std::min(kFirstParkNs << std::min<std::uint16_t>(task.parks++, 8), kLongestParkNs));
            return;
        case FillResult::source_failed:
            retry_or_fail(task, failure);
            return;
        case FillResult::failed:
            installer_.abandon_rest(task);
            if (task.demanded) {
                fail_page(task, "page " + hex(failure.host_address) +
                                    ": the kernel refused to install it: " + errno_text(failure.errno_value));
            } else {
                finish(task);
            }
            return;
        case FillResult::gone:
            finish(task);
            if (!core_.closing.load()) {
                end(EndReason::vm_exited);
            }
            return;
    }
}

void PagerSession::defer(FillTask task, bool to_source_lane, std::uint64_t delay_ns) noexcept {
    if (!task.counted) {
        if (in_flight_.fetch_add(1) >= core_.config.max_in_flight) {
            // Bounded memory: forget this one. Its thread sleeps until finish() wakes everybody, then faults again.
            bump(core_.counters.overflowed);
            installer_.abandon(task);
            overflowed_.store(true);  // after the abandon: a wake in between would come too early for its thread
            release_slot();
            return;
        }
        task.counted = true;
    }
    TaskLane& lane = to_source_lane ? runtime_.source_lane() : runtime_.retry_lane();
    lane.submit({shared_from_this(), LaneWork::fill, task}, delay_ns);
}

void PagerSession::finish(const FillTask& task) noexcept {
    if (task.counted) {
        release_slot();
    }
}

void PagerSession::release_slot() noexcept {
    const std::uint32_t left = in_flight_.fetch_sub(1) - 1;
    if (left <= core_.config.max_in_flight / 2 && overflowed_.load() && overflowed_.exchange(false)) {
        wake_everybody();
    }
}

void PagerSession::wake_everybody() noexcept {
    const std::shared_lock gate(core_.gate);
    for (const MappedRegion& mapped : core_.table.regions()) {
        core_.uffd.wake(mapped.region.host_address, mapped.region.size);
    }
}

std::uint64_t PagerSession::retry_delay_ns(std::uint16_t tries) const noexcept {
    thread_local std::minstd_rand random(static_cast<unsigned>(monotonic_ns()));
    const std::uint64_t longest =
        std::min(core_.config.retry_max_ns, core_.config.retry_min_ns << std::min<std::uint16_t>(tries, 10));
    if (longest <= core_.config.retry_min_ns) {
        return core_.config.retry_min_ns;
    }
    return core_.config.retry_min_ns + random() % (longest - core_.config.retry_min_ns + 1);
}

void PagerSession::retry_or_fail(FillTask task, const FillFailure& failure) noexcept {
    installer_.abandon_rest(task);
    if (!task.demanded) {
        finish(task);
        return;
    }
    if (task.tries < core_.config.retries) {
        bump(core_.counters.retried);
        const std::uint64_t delay_ns = retry_delay_ns(task.tries++);
        defer(task, true, delay_ns);
        return;
    }
    std::string why = "page " + hex(failure.host_address) + " (offset " + hex(failure.offset) + "): ";
    try {
        throw_read_error(*core_.source, failure.offset, task.page_size, failure.read);
    } catch (const Error& error) {
        why += error.what();
    }
    fail_page(task, why);
}

void PagerSession::fail_page(FillTask task, const std::string& why) noexcept {
    if (!task.doomed) {
        task.doomed = true;
        bump(core_.counters.failed);
        add_failure(why);
        const std::shared_lock gate(core_.gate);
        if (const MappedRegion* mapped = core_.table.find(task.demand_address)) {
            mapped->set(mapped->page_of(task.demand_address), PageState::failed);
        }
        record_failure(core_, task);
    }
    switch (policy_) {
        case FailurePolicy::kill:
            kill_vm();
            break;
        case FailurePolicy::poison:
            if (!poison(task.demand_address, task.page_size)) {
                defer(task, false, kFirstParkNs);
                return;
            }
            break;
        case FailurePolicy::automatic:
        case FailurePolicy::hang:
            break;
    }
    finish(task);
    notify(SessionEventKind::failed);
}

void PagerSession::kill_vm() noexcept {
    kill_sent_.store(true);
    int error_number = 0;
    {
        const std::lock_guard lock(mutex_);  // as in kill()
        error_number = core_.pid_fd ? core_.pid_fd.send_signal(SIGKILL) : 0;
    }
    if (error_number != 0 && error_number != ESRCH) {
        add_failure("the VM could not be killed: " + errno_text(error_number));
    }
}

// False: an event is pending, try again later. The gate is held shared.
bool PagerSession::poison_locked(std::uint64_t host_address, std::uint64_t size) noexcept {
    const FillOutcome outcome = core_.uffd.poison(host_address, size);
    if (outcome.status == FillStatus::again) {
        return false;
    }
    if (outcome.status == FillStatus::invalid) {
        add_failure("the kernel has no UFFDIO_POISON (Linux 6.6): the thread that touched " + hex(host_address) +
                    " stays asleep");
    } else {
        core_.uffd.wake(host_address, size);
    }
    return true;
}

bool PagerSession::poison(std::uint64_t host_address, std::uint64_t size) noexcept {
    const std::shared_lock gate(core_.gate);
    return poison_locked(host_address, size);
}

void PagerSession::fail_foreign(std::uint64_t host_address) noexcept {
    bump(core_.counters.forwarded);
    bump(core_.counters.failed);
    if (!foreign_reported_.exchange(true)) {
        add_failure("a fault at " + hex(host_address) + " is in no region; the failure policy was applied");
    }
    FillTask task;
    task.demand_address = host_address & ~std::uint64_t{4095};
    task.demanded = true;
    task.doomed = true;
    fail_page(task, "");
}

void PagerSession::add_failure(const std::string& text) noexcept {
    try {
        {
            const std::lock_guard lock(mutex_);
            if (failures_.size() < kKeptFailures) {
                failures_.push_back(text);
            }
        }
        log_line(LogLevel::error, "pager", label_ + ": " + text);
    } catch (const std::exception& error) {
        log_line(LogLevel::error, "pager", error.what());
    }
}

}  // namespace vmthaw
