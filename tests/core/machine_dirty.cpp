#include <gtest/gtest.h>
#include <linux/kvm.h>
#include <sys/mman.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <random>
#include <set>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "base/mapping.hpp"
#include "machine/page_bits.hpp"
#include "machine/written_pages.hpp"
#include "machine_support.hpp"

// Which pages were written: by the host, by the guest, by bits and by rings.
namespace vmthaw {
namespace {

std::set<std::uint64_t> pages_of(const PageBits& bits) {
    std::set<std::uint64_t> pages;
    for_each_page_run(bits, [&](std::uint64_t first, std::uint64_t count) {
        for (std::uint64_t page = first; page < first + count; ++page) {
            EXPECT_TRUE(pages.insert(page).second);
        }
    });
    return pages;
}

TEST(PageBitsRuns, AreThePagesAndAsLongAsTheyCanBe) {
    std::mt19937_64 draw(1);
    for (int round = 0; round < 500; ++round) {
        const std::uint64_t size = 1 + draw() % 300;
        PageBits bits(words_for_pages(size));
        std::set<std::uint64_t> wanted;
        for (std::uint64_t page = 0; page < size; ++page) {
            if ((page / (1 + draw() % 70) + static_cast<std::uint64_t>(round)) % 2 == 0) {
                set_page(bits, page);
                wanted.insert(page);
            }
        }
        EXPECT_EQ(count_pages(bits), wanted.size());
        EXPECT_EQ(pages_of(bits), wanted);
        std::uint64_t end = 0;
        for_each_page_run(bits, [&](std::uint64_t first, std::uint64_t count) {
            EXPECT_GT(count, 0U);
            EXPECT_TRUE(end == 0 || first > end) << "two runs that are one";
            end = first + count;
        });
    }
}

TEST(WrittenPagesStress, EveryMarkIsTakenOnceOrMore) {
    constexpr std::uint64_t kPages = 1000;
    constexpr int kMarkers = 3;
    WrittenPages written(kPages);
    std::vector<std::atomic<std::uint64_t>> versions(kPages);  // what the pages hold
    std::vector<std::uint64_t> saved(kPages);                  // what the diffs say that they hold
    std::atomic<int> marking{kMarkers};
    std::vector<std::thread> markers;
    for (int seed = 0; seed < kMarkers; ++seed) {
        markers.emplace_back([&, seed] {
            std::mt19937_64 draw(static_cast<std::uint64_t>(seed));
            for (int i = 0; i < 20000; ++i) {
                const std::uint64_t page = draw() % (kPages - 2);
                versions[page].fetch_add(1, std::memory_order_relaxed);
                versions[page + 1].fetch_add(1, std::memory_order_relaxed);
                written.mark(page, 2);
            }
            --marking;
        });
    }
    for (bool last = false; !last;) {
        last = marking.load() == 0;
        PageBits bits(words_for_pages(kPages));
        written.take_into(bits);
        if (!last && count_pages(bits) % 2 == 1) {
            written.put_back(bits);  // a diff that failed
            continue;
        }
        for (const std::uint64_t page : pages_of(bits)) {
            saved[page] = versions[page].load(std::memory_order_relaxed);
        }
    }
    for (std::thread& marker : markers) {
        marker.join();
    }
    for (std::uint64_t page = 0; page < kPages; ++page) {
        EXPECT_EQ(saved[page], versions[page].load()) << page;
    }
}

TEST(WrittenPagesOfAMemory, AreThoseThatTheHostWroteInAnyWay) {
    const auto memory = GuestMemory::anonymous(kMachineMemory);
    const std::uint64_t start = memory->regions().front().guest_address;
    const std::array<std::uint8_t, 8> stored{1, 2, 3, 4, 5, 6, 7, 8};
    const std::array<std::byte, 2> written{};
    EXPECT_TRUE(memory->store(start + 3 * payload::kPageBytes + 8, stored));
    EXPECT_TRUE(memory->store(start + 5 * payload::kPageBytes - 4, stored));
    EXPECT_FALSE(memory->store(start + kMachineMemory - 4, stored));
    memory->write(start + 8 * payload::kPageBytes - 1, written);
    memory->mark_written(start + 10 * payload::kPageBytes, 2 * payload::kPageBytes);
    memory->mark_written(start + 20 * payload::kPageBytes, 0);
    EXPECT_THROW(memory->mark_written(start + kMachineMemory - 1, 2), ArgumentError);
    PageBits bits(words_for_pages(kMachineMemory / payload::kPageBytes));
    memory->written().take_into(bits);
    EXPECT_EQ(pages_of(bits), (std::set<std::uint64_t>{3, 4, 5, 7, 8, 10, 11}));
}

class DirtyPages : public MachineRun, public ::testing::WithParamInterface<std::uint32_t> {
protected:
    void SetUp() override {
        MachineRun::SetUp();
        if (IsSkipped()) {
            return;
        }
        try {
            machine_ = std::make_shared<Machine>(GuestMemory::anonymous(kMachineMemory), 1,
                                                 MachineOptions{.irqchip = false, .dirty_ring_entries = GetParam()});
        } catch (const SystemError& error) {
            GTEST_SKIP() << error.what();
        }
        machine_->load_payload();
        machine_->dirty().start();
        (void)machine_->dirty().take();
    }
    // Of the work area.
    std::set<std::uint64_t> taken() {
        std::set<std::uint64_t> pages = pages_of(machine_->dirty().take());
        std::erase_if(pages, [](std::uint64_t page) { return page < payload::kFirstWorkPage; });
        return pages;
    }
};

TEST_P(DirtyPages, AreThoseThatTheGuestWrote) {
    workload_.zero_share = 0;
    (void)perform(*machine_, payload::kFill);
    EXPECT_EQ(taken().size(), kWorkPages);
    EXPECT_TRUE(taken().empty());
    workload_.rewrite_count = 1;
    workload_.rewrites[0] = {5, payload::kShareOne / 10, payload::kFirstWorkPage, kWorkPages};
    std::set<std::uint64_t> rewritten;
    for (std::uint64_t page = payload::kFirstWorkPage; page < payload::kFirstWorkPage + kWorkPages; ++page) {
        if (payload::generation_of(workload_, page) == 1) {
            rewritten.insert(page);
        }
    }
    (void)perform(*machine_, payload::kRewrite);
    EXPECT_EQ(taken(), rewritten);
}

TEST_P(DirtyPages, OfASlotThatWasRemovedAreAllOfIt) {
    const MemorySlot slot = machine_->vm().memory_slots().at(0);
    machine_->vm().remove_memory_slot(slot.slot);
    EXPECT_EQ(taken().size(), kWorkPages);
    MemorySlot again = slot;
    again.log_dirty_pages = false;
    machine_->vm().set_memory_slot(again);
    EXPECT_EQ(taken().size(), kWorkPages) << "nobody knows what was written before it was first seen";
    EXPECT_TRUE(taken().empty());
    workload_.zero_share = 0;
    (void)perform(*machine_, payload::kFill);
    EXPECT_EQ(taken().size(), kWorkPages);
}

TEST_P(DirtyPages, ThatWerePutBackAreTakenAgain) {
    workload_.zero_share = 0;
    (void)perform(*machine_, payload::kFill);
    machine_->dirty().put_back(machine_->dirty().take());
    EXPECT_EQ(taken().size(), kWorkPages);
}

using DirtyPagesOfRings = DirtyPages;

TEST_P(DirtyPagesOfRings, AreAllWhenEntriesAreLost) {
    // A ring full of entries, of slots that nobody has: the kernel wrote over others. (It does not survive this.)
    const Mapping mapping = Mapping::map(GetParam() * sizeof(kvm_dirty_gfn), PROT_READ | PROT_WRITE, MAP_SHARED,
                                         machine_->vcpu(0).fd(), 64 * payload::kPageBytes, "mmap(dirty ring)");
    for (kvm_dirty_gfn& entry : std::span(reinterpret_cast<kvm_dirty_gfn*>(mapping.data()), GetParam())) {
        entry = {KVM_DIRTY_GFN_F_DIRTY, 0xFFFF, 0};
    }
    EXPECT_EQ(taken().size(), kWorkPages);
    EXPECT_TRUE(taken().empty());
}

INSTANTIATE_TEST_SUITE_P(Ring, DirtyPagesOfRings, ::testing::Values(1024U));
INSTANTIATE_TEST_SUITE_P(LogAndRing, DirtyPages, ::testing::Values(0U, 1024U));

}  // namespace
}  // namespace vmthaw
