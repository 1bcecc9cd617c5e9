#include <algorithm>
#include <cmath>
#include <thread>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "testing/fake_vmm.hpp"
#include "testing/fake_vmm_work.hpp"
#include "testing/splitmix.hpp"

namespace vmthaw::testing {
namespace {

struct Storm {
    StormOptions options;
    std::uint64_t threads;
    std::uint32_t generation;                // of the writes
    std::atomic<std::uint64_t> hot_page{0};  // where the remover works: touching there is what races
    std::atomic<std::uint64_t> removals{0};
    std::atomic<std::uint64_t> removed_pages{0};
    std::atomic<std::uint64_t> touching{0};  // threads that have touched: the removals begin when all have
    std::atomic<bool> over{false};

    Storm(const StormOptions& given, std::uint64_t thread_count, std::uint32_t write_generation)
        : options(given), threads(thread_count), generation(write_generation) {}
};

// The longest mapped run from `first` on, at most `limit` pages.
std::uint64_t run_length(const FakeVmmMemory& memory, std::uint64_t first, std::uint64_t limit) {
    std::uint64_t count = 1;
    while (count < limit && first + count < memory.pages() &&
           memory.address(first + count) == memory.address(first) + count * memory.page_size()) {
        ++count;
    }
    return count;
}

void remove_at_random(FakeVmmWork& work, Storm& storm, std::size_t lane) {
    SplitMix random(mix64(storm.options.seed));
    const FakeVmmMemory& memory = *work.memory;
    // On a busy machine all removals would be over before the first thread ran, and nothing would have raced.
    while (storm.touching < storm.threads && !work.stop) {
        std::this_thread::yield();
    }
    while (storm.removals < storm.options.removals && !work.stop) {
        const std::uint64_t first = random.below(memory.pages());
        if (memory.address(first) == 0) {
            continue;
        }
        // Sizes spread evenly over the orders of magnitude, as a balloon's are.
        const double size = std::exp(random.unit() * std::log(static_cast<double>(storm.options.max_pages) + 0.5));
        const std::uint64_t count =
            run_length(memory, first, std::max<std::uint64_t>(1, static_cast<std::uint64_t>(size)));
        storm.hot_page = first;
        work.lanes[lane].page = first;
        work.ledger->removal_begins(first, count);
        memory.remove(first, count);
        work.ledger->removal_ended(first, count);
        ++storm.removals;
        storm.removed_pages += count;
    }
    storm.over = true;
}

// Each thread has the pages of its own residue, so that every page has one writer.
void touch_at_random(FakeVmmWork& work, Storm& storm, std::size_t index) {
    FakeVmmWork::Lane& lane = work.lanes[index];
    SplitMix random(mix64(storm.options.seed + 1 + index));
    PageLedger::Scratch scratch;
    const std::uint64_t pages = work.memory->pages();
    const auto own = [&](std::uint64_t page) { return page - page % storm.threads + index; };
    constexpr int kAttempts = 1000;  // of a thread whose pages are all unmapped
    int attempts = 0;
    bool begun = false;
    while (!storm.over && !work.stop) {
        if (!begun && (lane.done > 0 || ++attempts == kAttempts)) {
            begun = true;
            ++storm.touching;
        }
        const bool hot = random.below(2) == 0;
        const std::uint64_t page =
            own(hot ? storm.hot_page + random.below(std::min<std::uint64_t>(16, pages)) : random.below(pages));
        if (page >= pages || work.memory->address(page) == 0) {
            continue;
        }
        lane.page.store(page, std::memory_order_relaxed);
        if (random.unit() < storm.options.write_share) {
            work.ledger->write_touch(page, storm.generation);
        } else {
            work.check(lane, page, scratch);
        }
        ++lane.done;
    }
    for (std::uint64_t page = index; page < pages && !work.stop; page += storm.threads) {
        if (work.memory->address(page) != 0) {
            work.check(lane, page, scratch);
        }
    }
}

}  // namespace

StormReport FakeVmm::storm(const StormOptions& options) {
    const std::lock_guard lock(mutex_);
    if (options.max_pages == 0) {
        throw ArgumentError("max_pages must be at least 1");
    }
    const std::uint64_t threads = std::clamp<std::uint64_t>(options.threads, 1, memory_->pages());
    const auto work = std::make_shared<FakeVmmWork>(memory_, ledger_, threads + 1);
    const auto storm = std::make_shared<Storm>(options, threads, ledger_->next_generation());
    StormReport report;
    const std::uint64_t start = monotonic_ns();
    FakeVmmWork::run(
        work,
        [storm](FakeVmmWork& shared, std::size_t index) {
            if (index == storm->threads) {
                remove_at_random(shared, *storm, index);
            } else {
                touch_at_random(shared, *storm, index);
            }
        },
        {}, options.timeout_ns, report);
    report.duration_ns = monotonic_ns() - start;
    for (const FakeVmmWork::Lane& lane : work->lanes) {
        report.touches += lane.done.load();
    }
    report.removals = storm->removals;
    report.removed_pages = storm->removed_pages;
    return report;
}

}  // namespace vmthaw::testing
