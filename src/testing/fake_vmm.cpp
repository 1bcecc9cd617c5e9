#include "testing/fake_vmm.hpp"

#include <poll.h>

#include <algorithm>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "testing/fake_vmm_work.hpp"

namespace vmthaw::testing {
namespace {

std::pair<std::size_t, std::size_t> slice(std::size_t total, std::size_t parts, std::size_t index) {
    return {total * index / parts, total * (index + 1) / parts};
}

void touch_slice(FakeVmmWork& work, std::size_t lane_index, std::size_t first, std::size_t last, std::size_t out,
                 std::uint32_t generation) {
    FakeVmmWork::Lane& lane = work.lanes[lane_index];
    for (std::size_t i = first; i < last && !work.stop.load(std::memory_order_relaxed); ++i, ++out) {
        const std::uint64_t page = work.plan[i];
        lane.page.store(page, std::memory_order_relaxed);
        const std::uint64_t start = monotonic_ns();
        if (generation != 0) {
            work.ledger->write_touch(page, generation);
        } else {
            work.ledger->read_touch(page);
        }
        work.latencies_ns[out] = std::max<std::uint64_t>(monotonic_ns() - start, 1);
        lane.done.store(lane.done.load(std::memory_order_relaxed) + 1, std::memory_order_release);
    }
}

}  // namespace

void Findings::add(const Mismatch& mismatch) {
    ++mismatch_count;
    if (mismatches.size() < kMaxReportedMismatches) {
        mismatches.push_back(mismatch);
    }
}

void Findings::merge(const Findings& other) {
    mismatch_count += other.mismatch_count;
    for (const Mismatch& mismatch : other.mismatches) {
        if (mismatches.size() < kMaxReportedMismatches) {
            mismatches.push_back(mismatch);
        }
    }
    timed_out = timed_out || other.timed_out;
    stuck_pages.insert(stuck_pages.end(), other.stuck_pages.begin(), other.stuck_pages.end());
}

FakeVmm::FakeVmm(const FakeVmmConfig& config)
    : memory_(std::make_shared<FakeVmmMemory>(config.regions, config.kind, config.page_size, config.extra_features)),
      ledger_(std::make_shared<PageLedger>(memory_, config.memory_path)) {}

void FakeVmm::handover(const std::string& socket_path, const FakeHandoverOptions& options) {
    const std::lock_guard lock(mutex_);
    socket_.reset();
    socket_ = send_handover(socket_path, *memory_, options);
}

bool FakeVmm::peer_has_hung_up() const noexcept {
    pollfd poll_fd{socket_.get(), 0, 0};
    return ::poll(&poll_fd, 1, 0) > 0 && (static_cast<unsigned>(poll_fd.revents) & unsigned{POLLHUP}) != 0;
}

TouchReport FakeVmm::touch(const std::vector<std::uint64_t>& plan, const TouchOptions& options) {
    const std::lock_guard lock(mutex_);
    const std::size_t threads = std::max<std::uint64_t>(options.threads, 1);
    for (const std::uint64_t page : plan) {
        if (page >= memory_->pages() || memory_->address(page) == 0) {
            throw ArgumentError("page " + std::to_string(page) + " is not mapped in the VM");
        }
    }
    const auto work = std::make_shared<FakeVmmWork>(memory_, ledger_, threads);
    work->plan = plan;
    work->latencies_ns.resize(options.everybody_touches_all ? plan.size() * threads : plan.size());
    const std::uint32_t generation = options.write ? ledger_->next_generation() : 0;
    const bool all = options.everybody_touches_all;

    TouchReport report;
    const std::uint64_t start = monotonic_ns();
    FakeVmmWork::run(
        work,
        [all, generation, threads](FakeVmmWork& shared, std::size_t index) {
            const std::size_t total = shared.plan.size();
            const auto [first, last] = all ? std::pair{std::size_t{0}, total} : slice(total, threads, index);
            touch_slice(shared, index, first, last, all ? index * total : first, generation);
        },
        options.cpus, options.timeout_ns, report);
    report.duration_ns = monotonic_ns() - start;
    for (const FakeVmmWork::Lane& lane : work->lanes) {
        report.touches += lane.done.load(std::memory_order_acquire);
    }
    if (report.timed_out) {
        return report;  // the latencies still belong to the stuck threads
    }
    report.latencies_ns = std::move(work->latencies_ns);
    if (options.verify) {
        const auto checking = std::make_shared<FakeVmmWork>(memory_, ledger_, 1);
        checking->plan = plan;
        FakeVmmWork::run(
            checking,
            [](FakeVmmWork& shared, std::size_t index) {
                PageLedger::Scratch scratch;
                for (const std::uint64_t page : shared.plan) {
                    shared.check(shared.lanes[index], page, scratch);
                }
            },
            {}, options.timeout_ns, report);
    }
    return report;
}

Findings FakeVmm::verify(bool only_touched, std::uint64_t threads, std::uint64_t timeout_ns) {
    const std::lock_guard lock(mutex_);
    const auto work = std::make_shared<FakeVmmWork>(memory_, ledger_, std::max<std::uint64_t>(threads, 1));
    for (std::uint64_t page = 0; page < memory_->pages(); ++page) {
        if (memory_->address(page) != 0 && (!only_touched || ledger_->touched(page))) {
            work->plan.push_back(page);
        }
    }
    Findings findings;
    FakeVmmWork::run(
        work,
        [](FakeVmmWork& shared, std::size_t index) {
            PageLedger::Scratch scratch;
            const auto [first, last] = slice(shared.plan.size(), shared.lanes.size(), index);
            for (std::size_t i = first; i < last && !shared.stop.load(); ++i) {
                shared.check(shared.lanes[index], shared.plan[i], scratch);
            }
        },
        {}, timeout_ns, findings);
    return findings;
}

Findings FakeVmm::for_each_range(const Ranges& ranges, std::uint64_t timeout_ns, PageCall call) {
    const std::lock_guard lock(mutex_);
    const auto work = std::make_shared<FakeVmmWork>(memory_, ledger_, 1);
    Findings findings;
    FakeVmmWork::run(
        work,
        [ranges, call](FakeVmmWork& shared, std::size_t index) {
            for (const auto& [first, count] : ranges) {
                shared.lanes[index].page.store(first);
                call(*shared.memory, *shared.ledger, first, count);
            }
        },
        {}, timeout_ns, findings);
    return findings;
}

Findings FakeVmm::remove(const Ranges& ranges, std::uint64_t timeout_ns) {
    return for_each_range(ranges, timeout_ns,
                          [](FakeVmmMemory& memory, PageLedger& ledger, std::uint64_t first, std::uint64_t count) {
                              memory.check_mapped(first, count);
                              ledger.removal_begins(first, count);
                              memory.remove(first, count);
                              ledger.removal_ended(first, count);
                          });
}

Findings FakeVmm::unmap(const Ranges& ranges, std::uint64_t timeout_ns) {
    return for_each_range(ranges, timeout_ns,
                          [](FakeVmmMemory& memory, PageLedger& /*ledger*/, std::uint64_t first, std::uint64_t count) {
                              memory.unmap(first, count);
                          });
}

Findings FakeVmm::remap(const Ranges& ranges, std::uint64_t timeout_ns) {
    return for_each_range(ranges, timeout_ns,
                          [](FakeVmmMemory& memory, PageLedger& /*ledger*/, std::uint64_t first, std::uint64_t count) {
                              memory.remap(first, count);
                          });
}

}  // namespace vmthaw::testing
