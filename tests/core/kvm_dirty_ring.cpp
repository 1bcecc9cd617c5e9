#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <set>
#include <vector>

#include "kvm/dirty_ring.hpp"

// The ring against a kernel of our own, which overruns it as the true one does.
namespace vmthaw {
namespace {

constexpr std::uint32_t kEntries = 256;
constexpr std::uint32_t kReserve = 64;

// virt/kvm/dirty_ring.c: it pushes whatever comes, and only looks at the limit before it enters the guest.
struct KernelRing {
    std::vector<kvm_dirty_gfn> entries = std::vector<kvm_dirty_gfn>(kEntries);
    std::uint32_t dirty_index = 0;
    std::uint32_t reset_index = 0;

    [[nodiscard]] std::uint32_t used() const { return dirty_index - reset_index; }
    [[nodiscard]] bool is_full() const { return used() >= kEntries - kReserve; }
    void push(std::uint64_t page) { entries[dirty_index++ % kEntries] = {KVM_DIRTY_GFN_F_DIRTY, 3, page}; }
    std::uint32_t reset() {
        std::uint32_t count = 0;
        while ((entries[reset_index % kEntries].flags & KVM_DIRTY_GFN_F_RESET) != 0) {
            entries[reset_index++ % kEntries].flags = 0;
            ++count;
        }
        return count;
    }
};

struct Taken {
    std::set<std::uint64_t> pages;
    bool whole = true;

    void from(DirtyRing& ring) {
        whole = ring.take([this](std::uint32_t slot, std::uint64_t page) {
            EXPECT_EQ(slot, 3U);
            pages.insert(page);
        });
    }
};

TEST(DirtyRingOfAKernel, GivesWhatWasPushedInAnyPortions) {
    std::mt19937_64 draw(1);
    KernelRing kernel;
    DirtyRing ring(kernel.entries);
    std::uint64_t page = 0;
    for (int round = 0; round < 5000; ++round) {
        std::set<std::uint64_t> pushed;
        for (std::uint64_t left = draw() % (kEntries - 1); left > 0; --left) {
            pushed.insert(page);
            kernel.push(page++);
        }
        Taken taken;
        taken.from(ring);
        EXPECT_TRUE(taken.whole);
        EXPECT_EQ(taken.pages, pushed);
        EXPECT_EQ(kernel.reset(), pushed.size());
        EXPECT_EQ(kernel.used(), 0U);
    }
}

TEST(DirtyRingOfAKernel, SaysWhenEntriesAreLostAndFindsItsPlaceAgain) {
    for (std::uint64_t seed = 0; seed < 300; ++seed) {
        std::mt19937_64 draw(seed);
        KernelRing kernel;
        DirtyRing ring(kernel.entries);
        std::uint64_t page = 0;
        std::set<std::uint64_t> missing;
        int overruns = 0;
        for (int round = 0; round < 200; ++round) {
            // A guest enters the kernel until the ring is full; each time it may write more than the reserve.
            const bool emulated = draw() % 2 == 0;
            for (int entry = 0; entry < 20 && !kernel.is_full(); ++entry) {
                for (std::uint64_t left = draw() % (emulated ? 200 : kReserve); left > 0; --left) {
                    missing.insert(page);
                    kernel.push(page++);
                }
            }
            const bool overrun = kernel.used() > kEntries;
            const bool was_full = kernel.is_full();
            Taken taken;
            taken.from(ring);
            overruns += overrun ? 1 : 0;
            ASSERT_FALSE(overrun && taken.whole) << "seed " << seed << ", round " << round;
            if (taken.whole) {
                for (const std::uint64_t one : taken.pages) {
                    missing.erase(one);
                }
                ASSERT_TRUE(missing.empty()) << "seed " << seed << ", round " << round;
            }
            missing.clear();
            const std::uint32_t given_back = kernel.reset();
            ASSERT_FALSE(was_full && given_back == 0) << "seed " << seed << ", round " << round;
            ASSERT_FALSE(kernel.is_full()) << "seed " << seed << ", round " << round;
        }
        EXPECT_GT(overruns, 0);
    }
}

}  // namespace
}  // namespace vmthaw
