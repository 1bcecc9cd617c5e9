#include "testing/trace_loop.hpp"

#include <algorithm>
#include <barrier>
#include <thread>
#include <vector>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "trace/trace_slot.hpp"

namespace vmthaw::testing {
namespace {

constexpr std::uint64_t kTurn = 4096;  // records of one thread between two times of emptying
constexpr std::uint64_t kMostThreads = 64;

// As PageInstaller::account() does. Not inline, so that the loop around it cannot be optimized away.
[[gnu::noinline]] void fault(const TraceSlot& slot, std::uint64_t page, std::uint16_t handler) noexcept {
    TraceRing* const ring = slot.active();
    const std::uint64_t fetched_ns = ring != nullptr ? monotonic_ns() : 0;
    const std::uint64_t now_ns = monotonic_ns();
    if (ring != nullptr) {
        FaultRecord record;
        record.t_fault_ns = page;
        record.t_fetched_ns = fetched_ns;
        record.t_installed_ns = now_ns;
        record.guest_address = record.offset = page << 12U;
        record.pages = 1;
        record.handler = handler;
        ring->record(record);
    }
}

}  // namespace

std::uint64_t trace_loop(std::uint64_t threads, std::uint64_t records, bool traced) {
    if (threads < 1 || threads > kMostThreads || records < 1) {
        throw ArgumentError("trace_loop needs 1 to 64 threads and at least 1 record");
    }
    TraceSlot slot(traced ? threads * kTurn : 0);
    std::vector<FaultRecord> taken;
    taken.reserve(threads * kTurn);
    const auto empty = [&]() noexcept {
        if (TraceRing* const ring = slot.ring()) {
            taken.clear();  // within its capacity: no allocation
            ring->drain(taken, threads * kTurn);
        }
    };
    std::barrier turn(static_cast<std::ptrdiff_t>(threads), empty);
    std::vector<std::uint64_t> took_ns(threads, 0);
    const auto work = [&](std::uint64_t number) {
        for (std::uint64_t done = 0; done < records; done += kTurn) {
            turn.arrive_and_wait();
            const std::uint64_t begin_ns = monotonic_ns();
            const std::uint64_t end = std::min(records, done + kTurn);
            for (std::uint64_t page = done; page < end; ++page) {
                fault(slot, page, static_cast<std::uint16_t>(number));
            }
            took_ns[number] += monotonic_ns() - begin_ns;
        }
    };
    {
        std::vector<std::jthread> workers;
        workers.reserve(threads - 1);
        try {
            for (std::uint64_t number = 1; number < threads; ++number) {
                workers.emplace_back(work, number);
            }
        } catch (...) {
            for (std::uint64_t number = workers.size(); number < threads; ++number) {
                turn.arrive_and_drop();  // those that were made wait for nobody
            }
            throw;
        }
        work(0);
    }
    if (slot.ring() != nullptr && slot.ring()->dropped() > 0) {
        throw Error("trace_loop dropped records: it measured something else");
    }
    return *std::ranges::max_element(took_ns);
}

}  // namespace vmthaw::testing
