#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <optional>
#include <thread>

#include "base/error.hpp"
#include "userfaultfd_pin.hpp"
#include "userfaultfd_support.hpp"

// UFFDIO_MOVE: the kernel's cases move, move-pmd and move-pmd-split, and every way in which it refuses.
namespace vmthaw::testing_support {
namespace {

constexpr std::size_t kHuge = std::size_t{2} << 20U;

class UserfaultfdMove : public ::testing::Test {
protected:
    void SetUp() override {
        if (!kernel_has(only(Feature::move))) {
            GTEST_SKIP() << "the kernel has no UFFDIO_MOVE (Linux 6.8)";
        }
        userfaultfd_.emplace(make_userfaultfd(Feature::move | Feature::event_remove));
        target_.emplace(Kind::anonymous, 4);
        userfaultfd_->register_range(target_->address(), target_->size(), kRegisterMissing);
    }
    [[nodiscard]] FillOutcome move(std::size_t to, const void* from, std::size_t pages, std::uint64_t mode = 0) const {
        return userfaultfd_->move(target_->address(to), address_of(from), pages * target_->page_size(), mode);
    }

    std::optional<Userfaultfd> userfaultfd_;
    std::optional<Memory> target_;
};

TEST_F(UserfaultfdMove, MovesThePageAndLeavesAHoleBehind) {
    const Mapping source = page_of(2 * target_->page_size(), 0x42);
    const FillOutcome outcome = move(1, source.data(), 2);
    EXPECT_EQ(outcome.status, FillStatus::done);
    EXPECT_EQ(outcome.done_bytes, 2 * target_->page_size());
    EXPECT_EQ(peek(target_->page(2)), 0x42);
    EXPECT_EQ(peek(source.data()), 0) << "the source must be missing, so it reads as zeros";
    const Mapping again = page_of(target_->page_size(), 1);
    EXPECT_EQ(move(1, again.data(), 1).status, FillStatus::present);
}

TEST_F(UserfaultfdMove, WakesTheThreadThatWaits) {
    const Mapping source = page_of(target_->page_size(), 0x17);
    unsigned char seen = 0;
    std::thread toucher([&] { seen = peek(target_->page(0)); });
    ASSERT_TRUE(std::holds_alternative<PagefaultMessage>(next_message(*userfaultfd_)));
    EXPECT_EQ(move(0, source.data(), 1).status, FillStatus::done);
    toucher.join();
    EXPECT_EQ(seen, 0x17);
}

TEST_F(UserfaultfdMove, AHoleInTheSourceIsRefusedUnlessAllowed) {
    Mapping source = page_of(2 * target_->page_size(), 0x42);
    ASSERT_EQ(::madvise(source.data() + target_->page_size(), target_->page_size(), MADV_DONTNEED), 0);
    const FillOutcome refused = move(0, source.data(), 2);
    EXPECT_EQ(refused.status, FillStatus::unmapped);
    EXPECT_EQ(refused.done_bytes, target_->page_size()) << "what was moved before the hole counts";
    EXPECT_EQ(move(2, source.data() + target_->page_size(), 1, kModeMoveAllowSourceHoles).status, FillStatus::done);
}

TEST_F(UserfaultfdMove, ASharedPageIsBusy) {
    const Mapping source = page_of(target_->page_size(), 0x42);
    int ready[2];
    ASSERT_EQ(::pipe(ready), 0);
    const pid_t child = ::fork();
    if (child == 0) {
        char byte = 0;
        ::close(ready[1]);
        [[maybe_unused]] const ssize_t got = ::read(ready[0], &byte, 1);  // until the parent closes its end
        ::_exit(0);
    }
    const FillOutcome outcome = move(0, source.data(), 1);
    EXPECT_EQ(outcome.status, FillStatus::failed);
    EXPECT_EQ(outcome.errno_value, EBUSY);
    ::close(ready[1]);
    ::close(ready[0]);
    ::waitpid(child, nullptr, 0);
}

TEST_F(UserfaultfdMove, APinnedPageIsBusy) {
    const Mapping source = page_of(target_->page_size(), 0x42);
    const PinnedMemory pinned(source.data(), target_->page_size());
    if (!pinned.reason.empty()) {
        GTEST_SKIP() << pinned.reason;
    }
    const FillOutcome outcome = move(0, source.data(), 1);
    EXPECT_EQ(outcome.status, FillStatus::failed);
    EXPECT_EQ(outcome.errno_value, EBUSY);
}

TEST_F(UserfaultfdMove, SharedMemoryAndOtherProcessesAreInvalid) {
    const Memory shared(Kind::shared_memory, 1);
    poke(shared.page(0), 1);
    EXPECT_EQ(move(0, shared.page(0), 1).status, FillStatus::invalid);
    const Mapping source = page_of(target_->page_size(), 0x42);
    // The child's own mapping at the same address, through the parent's descriptor: never across processes.
    EXPECT_EQ(in_child([&] { return move(0, source.data(), 1).status == FillStatus::invalid ? 0 : 1; }), 0);
}

TEST_F(UserfaultfdMove, AnEventThatIsPendingComesFirst) {
    const Mapping source = page_of(target_->page_size(), 0x42);
    std::thread remover([&] { ::madvise(target_->page(2), target_->page_size(), MADV_DONTNEED); });
    ASSERT_TRUE(eventually([&] { return has_message(*userfaultfd_); }));
    EXPECT_EQ(move(0, source.data(), 1).status, FillStatus::again);
    (void)next_message(*userfaultfd_);
    EXPECT_TRUE(eventually([&] { return move(0, source.data(), 1).status == FillStatus::done; }));
    remover.join();
}

// 2 MiB and more at an address that is a multiple of 2 MiB.
Mapping huge_aligned(std::size_t size) {
    Mapping reserve = Mapping::anonymous(size + kHuge);
    return reserve;
}
std::byte* align_up(const Mapping& mapping) {
    const std::uint64_t address = address_of(mapping.data());
    return mapping.data() + ((address + kHuge - 1) / kHuge * kHuge - address);
}

class UserfaultfdMoveHuge : public ::testing::TestWithParam<std::size_t> {};

// The parameter is how far the piece lies inside the huge page: 0 moves it whole, anything else splits it.
TEST_P(UserfaultfdMoveHuge, MovesATransparentHugePage) {
    if (!kernel_has(only(Feature::move))) {
        GTEST_SKIP() << "the kernel has no UFFDIO_MOVE (Linux 6.8)";
    }
    const Mapping source_reserve = huge_aligned(kHuge);
    const Mapping target_reserve = huge_aligned(kHuge);
    std::byte* const source = align_up(source_reserve);
    std::byte* const target = align_up(target_reserve);
    ASSERT_EQ(::madvise(source, kHuge, MADV_HUGEPAGE), 0);
    ASSERT_EQ(::madvise(target, kHuge, MADV_HUGEPAGE), 0);
    std::memset(source, 0x66, kHuge);
    if (smaps_kib(source, "AnonHugePages") != 2048) {
        GTEST_SKIP() << "no transparent huge page could be had";
    }
    const Userfaultfd userfaultfd = make_userfaultfd(only(Feature::move));
    userfaultfd.register_range(address_of(target), kHuge, kRegisterMissing);
    const std::size_t offset = GetParam();
    const FillOutcome outcome =
        userfaultfd.move(address_of(target) + offset, address_of(source) + offset, kHuge - offset);
    ASSERT_EQ(outcome.status, FillStatus::done);
    EXPECT_EQ(outcome.done_bytes, kHuge - offset);
    EXPECT_EQ(smaps_kib(target, "AnonHugePages"), offset == 0 ? 2048 : 0);
    for (std::size_t at = offset; at < kHuge; at += 4096) {
        ASSERT_EQ(peek(target + at), 0x66);
        ASSERT_EQ(peek(source + at), 0);
    }
    for (std::size_t at = 0; at < offset; at += 4096) {
        ASSERT_EQ(peek(source + at), 0x66);
    }
}

INSTANTIATE_TEST_SUITE_P(Offsets, UserfaultfdMoveHuge, ::testing::Values(0U, 3U * 4096U));

}  // namespace
}  // namespace vmthaw::testing_support
