#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "testing/fake_vmm.hpp"
#include "testing/guarded_run.hpp"

namespace vmthaw::testing {

inline constexpr std::uint64_t kNoPage = ~std::uint64_t{0};

// What the threads of one operation share. Owned by their bodies: a stuck thread outlives the operation.
struct FakeVmmWork {
    std::shared_ptr<FakeVmmMemory> memory;
    std::shared_ptr<PageLedger> ledger;
    std::vector<std::uint64_t> plan;
    std::vector<std::uint64_t> latencies_ns;
    struct alignas(64) Lane {
        std::atomic<std::uint64_t> page{kNoPage};  // being touched or checked
        std::atomic<std::uint64_t> done{0};
        Findings findings;
    };
    std::vector<Lane> lanes;
    std::atomic<bool> stop{false};
    std::mutex mutex;  // of the lanes' findings

    FakeVmmWork(std::shared_ptr<FakeVmmMemory> guest, std::shared_ptr<PageLedger> pages, std::size_t threads)
        : memory(std::move(guest)), ledger(std::move(pages)), lanes(threads) {}

    // Compares one page and notes what is wrong.
    void check(Lane& lane, std::uint64_t page, PageLedger::Scratch& scratch);
    // Runs one body per lane and collects what they found, or where they are stuck.
    static void run(const std::shared_ptr<FakeVmmWork>& work,
                    const std::function<void(FakeVmmWork&, std::size_t)>& body, const std::vector<int>& cpus,
                    std::uint64_t timeout_ns, Findings& findings);
};

}  // namespace vmthaw::testing
