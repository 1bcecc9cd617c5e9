#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/unique_fd.hpp"
#include "testing/fake_handover.hpp"
#include "testing/fake_vmm_memory.hpp"
#include "testing/page_ledger.hpp"
#include "testing/touch_plan.hpp"

namespace vmthaw::testing {

inline constexpr std::size_t kMaxReportedMismatches = 64;

struct FakeVmmConfig {
    std::string memory_path;
    std::vector<FakeRegionSpec> regions;
    MemoryKind kind = MemoryKind::anonymous;
    std::uint64_t page_size = 4096;
    std::uint64_t extra_features = 0;  // Feature bits beyond EVENT_REMOVE
};

// What went wrong, of any operation: pages that held the wrong bytes, threads still blocked at the time-out.
struct Findings {
    std::uint64_t mismatch_count = 0;
    std::vector<Mismatch> mismatches;  // the first kMaxReportedMismatches
    bool timed_out = false;
    std::vector<std::uint64_t> stuck_pages;  // where the blocked threads were

    [[nodiscard]] bool ok() const noexcept { return mismatch_count == 0 && !timed_out; }
    void add(const Mismatch& mismatch);
    void merge(const Findings& other);
};

struct TouchOptions {
    bool write = false;
    std::uint64_t threads = 1;
    bool everybody_touches_all = false;  // else each thread takes a slice of the plan
    std::vector<int> cpus;               // pins thread i to cpus[i]
    bool verify = true;                  // compare every touched page afterwards, outside the measured time
    std::uint64_t timeout_ns = 30'000'000'000;
};

struct TouchReport : Findings {
    std::uint64_t touches = 0;  // done
    std::uint64_t duration_ns = 0;
    std::vector<std::uint64_t> latencies_ns;  // in plan order (then thread by thread); 0: not reached
};

struct StormOptions {
    std::uint64_t removals = 1000;
    std::uint64_t max_pages = 256;  // of one removal
    std::uint64_t threads = 1;      // that touch meanwhile
    double write_share = 0.25;
    std::uint64_t seed = 0;
    std::uint64_t timeout_ns = 60'000'000'000;
};

struct StormReport : Findings {
    std::uint64_t touches = 0;
    std::uint64_t removals = 0;
    std::uint64_t removed_pages = 0;
    std::uint64_t duration_ns = 0;
};

// A stand-in for a VMM: maps guest memory, hands its userfaultfd over, touches pages, checks every byte against the
// memory file by its own reading, removes and moves pages. Works in its own threads, so that a page nobody serves ends
// in a report and not in a hang; a thread stuck for good keeps the memory mapped until the process ends.
// One operation at a time (they are serialised). Methods throw SystemError, ArgumentError.
class FakeVmm {
public:
    explicit FakeVmm(const FakeVmmConfig& config);

    [[nodiscard]] const FakeVmmMemory& memory() const noexcept { return *memory_; }
    void handover(const std::string& socket_path, const FakeHandoverOptions& options);
    [[nodiscard]] bool peer_has_hung_up() const noexcept;
    void close_socket() noexcept { socket_.reset(); }
    void close_userfaultfd() noexcept { memory_->close_userfaultfd(); }

    TouchReport touch(const std::vector<std::uint64_t>& plan, const TouchOptions& options);
    // Compares pages, touching those that are missing: all mapped ones, or only those touched before.
    Findings verify(bool only_touched, std::uint64_t threads, std::uint64_t timeout_ns);
    // Each range is (first page, count). Blocks until a handler has read the events, at most timeout_ns.
    using Ranges = std::vector<std::pair<std::uint64_t, std::uint64_t>>;
    Findings remove(const Ranges& ranges, std::uint64_t timeout_ns);
    Findings unmap(const Ranges& ranges, std::uint64_t timeout_ns);
    Findings remap(const Ranges& ranges, std::uint64_t timeout_ns);
    // Removes random ranges while threads touch, write and check; then checks every page.
    StormReport storm(const StormOptions& options);

private:
    using PageCall = void (*)(FakeVmmMemory&, PageLedger&, std::uint64_t first, std::uint64_t count);
    Findings for_each_range(const Ranges& ranges, std::uint64_t timeout_ns, PageCall call);

    std::shared_ptr<FakeVmmMemory> memory_;
    std::shared_ptr<PageLedger> ledger_;
    UniqueFd socket_;
    std::mutex mutex_;
};

}  // namespace vmthaw::testing
