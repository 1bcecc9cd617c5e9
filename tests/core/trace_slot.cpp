#include "trace/trace_slot.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace vmthaw {
namespace {

FaultRecord numbered(std::uint64_t number) {
    FaultRecord record;
    record.t_fault_ns = number;
    return record;
}

TEST(TraceSlot, IsEmptyUntilSomebodyWantsRecords) {
    TraceSlot slot(0);
    EXPECT_EQ(slot.active(), nullptr);
    EXPECT_EQ(slot.ring(), nullptr);
    slot.enable(8);
    ASSERT_NE(slot.active(), nullptr);
    EXPECT_EQ(slot.active()->capacity(), 8U);
}

TEST(TraceSlot, KeepsItsRingWhenItIsSwitchedOffAndOn) {
    TraceSlot slot(4);
    ASSERT_TRUE(slot.active()->record(numbered(7)));
    slot.disable();
    EXPECT_EQ(slot.active(), nullptr);
    std::vector<FaultRecord> records;
    EXPECT_EQ(slot.ring()->drain(records, 10), 1U);
    EXPECT_EQ(records.at(0).t_fault_ns, 7U);
    const TraceRing* const before = slot.ring();
    slot.enable(64);
    EXPECT_EQ(slot.active(), before);
    EXPECT_EQ(slot.ring()->capacity(), 4U);
}

TEST(TraceSlot, MayBeSwitchedWhileFaultsRecord) {
    TraceSlot slot(0);
    std::atomic<bool> stop{false};
    std::uint64_t accepted = 0;
    std::thread worker([&] {
        for (std::uint64_t number = 1; !stop.load(); ++number) {
            if (TraceRing* const ring = slot.active()) {
                accepted += ring->record(numbered(number)) ? 1 : 0;
            }
        }
    });
    std::vector<FaultRecord> records;
    for (int turn = 0; turn < 2000 || records.empty(); ++turn) {
        slot.enable(256);
        slot.ring()->drain(records, 64);
        slot.disable();
    }
    slot.enable(256);
    stop.store(true);
    worker.join();
    slot.ring()->drain(records, 1U << 20U);
    EXPECT_EQ(records.size(), accepted);
    for (std::size_t i = 1; i < records.size(); ++i) {
        ASSERT_LT(records[i - 1].t_fault_ns, records[i].t_fault_ns);
    }
}

}  // namespace
}  // namespace vmthaw
