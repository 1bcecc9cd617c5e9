#include "testing/fake_vmm_work.hpp"

namespace vmthaw::testing {

void FakeVmmWork::check(Lane& lane, std::uint64_t page, PageLedger::Scratch& scratch) {
    lane.page.store(page, std::memory_order_relaxed);
    if (const auto mismatch = ledger->check(page, scratch)) {
        const std::lock_guard lock(mutex);
        lane.findings.add(*mismatch);
    }
}

void FakeVmmWork::run(const std::shared_ptr<FakeVmmWork>& work,
                      const std::function<void(FakeVmmWork&, std::size_t)>& body, const std::vector<int>& cpus,
                      std::uint64_t timeout_ns, Findings& findings) {
    std::vector<std::function<void()>> bodies;
    bodies.reserve(work->lanes.size());
    for (std::size_t index = 0; index < work->lanes.size(); ++index) {
        bodies.emplace_back([work, body, index] {
            body(*work, index);
            work->lanes[index].page.store(kNoPage);
        });
    }
    const GuardedRun threads("fake-vcpu", std::move(bodies), cpus);
    if (!threads.wait_for(timeout_ns)) {
        work->stop.store(true);
        findings.timed_out = true;
        for (const Lane& lane : work->lanes) {
            if (const std::uint64_t page = lane.page.load(); page != kNoPage) {
                findings.stuck_pages.push_back(page);
            }
        }
    }
    const std::lock_guard lock(work->mutex);
    for (Lane& lane : work->lanes) {
        findings.merge(lane.findings);
        lane.findings = {};
    }
}

}  // namespace vmthaw::testing
