#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cerrno>
#include <memory>
#include <thread>

#include "base/error.hpp"
#include "userfaultfd_support.hpp"

// Registration and fills on every kind of memory: the kernel's cases register-ioctls, zeropage, poison, mmap-changing.
namespace vmthaw::testing_support {
namespace {

class UserfaultfdFill : public ::testing::TestWithParam<Kind> {
protected:
    void SetUp() override {
        if (is_huge(GetParam())) {
            reserved_ = std::make_unique<ReservedHugePages>(8);
            if (!reserved_->reason.empty()) {
                GTEST_SKIP() << reserved_->reason;
            }
        }
    }
    // All the kinds of memory there are, and events of removal.
    static Features everywhere() {
        return Feature::missing_hugetlbfs | Feature::missing_shmem | Feature::event_remove | Feature::minor_shmem |
               Feature::minor_hugetlbfs | Feature::wp_hugetlbfs_shmem;
    }

private:
    std::unique_ptr<ReservedHugePages> reserved_;
};

TEST_P(UserfaultfdFill, RegisterReportsTheRangeCalls) {
    const Memory memory(GetParam(), 2);
    const Userfaultfd userfaultfd = make_userfaultfd(everywhere());
    const std::uint64_t always = kRangeWake | kRangeCopy | kRangePoison;
    const std::uint64_t small = is_huge(GetParam()) ? 0 : kRangeZeropage | kRangeMove;
    EXPECT_EQ(userfaultfd.register_range(memory.address(), memory.size(), kRegisterMissing), always | small);
    userfaultfd.unregister_range(memory.address(), memory.size());
    const std::uint64_t both = kRegisterMissing | kRegisterWriteProtect;
    EXPECT_EQ(userfaultfd.register_range(memory.address(), memory.size(), both), always | small | kRangeWriteProtect);
    userfaultfd.unregister_range(memory.address(), memory.size());
    const std::uint64_t all = both | kRegisterMinor;
    if (GetParam() == Kind::anonymous || GetParam() == Kind::hugetlb) {
        // The kernel accepts MINOR on private hugetlb memory, which has a page cache of its own.
        const bool accepted = GetParam() == Kind::hugetlb;
        if (!accepted) {
            EXPECT_THROW(userfaultfd.register_range(memory.address(), memory.size(), all), SystemError);
        }
        return;
    }
    EXPECT_EQ(userfaultfd.register_range(memory.address(), memory.size(), all),
              always | small | kRangeWriteProtect | kRangeContinue);
}

TEST_P(UserfaultfdFill, RegisterRefusesBadModesAndRanges) {
    const Memory memory(GetParam(), 2);
    const Userfaultfd userfaultfd = make_userfaultfd(everywhere());
    const auto errno_of = [&](std::uint64_t address, std::uint64_t size, std::uint64_t modes) {
        try {
            userfaultfd.register_range(address, size, modes);
        } catch (const SystemError& error) {
            return error.errno_value();
        }
        return 0;
    };
    EXPECT_EQ(errno_of(memory.address(), memory.size(), 0), EINVAL);
    EXPECT_EQ(errno_of(memory.address(), memory.size(), 1U << 10U), EINVAL);
    EXPECT_EQ(errno_of(memory.address(), 0, kRegisterMissing), EINVAL);
    EXPECT_EQ(errno_of(memory.address() + 1, memory.page_size(), kRegisterMissing), EINVAL);
    EXPECT_EQ(errno_of(memory.address(), ~std::uint64_t{0} - 4095, kRegisterMissing), EINVAL);
}

TEST_P(UserfaultfdFill, ZeroInstallsZeroPagesOnlyWhereTheyAreMissing) {
    const Memory memory(GetParam(), 2);
    const Userfaultfd userfaultfd = make_userfaultfd(everywhere());
    userfaultfd.register_range(memory.address(), memory.size(), kRegisterMissing);
    const FillOutcome outcome = userfaultfd.zero(memory.address(), memory.page_size());
    if (is_huge(GetParam())) {
        EXPECT_EQ(outcome.status, FillStatus::invalid);
        EXPECT_EQ(outcome.done_bytes, 0U);
        return;
    }
    ASSERT_EQ(outcome.status, FillStatus::done);
    EXPECT_EQ(outcome.done_bytes, memory.page_size());
    EXPECT_EQ(peek(memory.page(0)), 0);
    poke(memory.page(0), 9);
    EXPECT_EQ(userfaultfd.zero(memory.address(), memory.page_size()).status, FillStatus::present);
    EXPECT_EQ(peek(memory.page(0)), 9);
}

TEST_P(UserfaultfdFill, CopyIntoAMissingPageWakesTheThreadThatWaits) {
    const Memory memory(GetParam(), 2);
    const Userfaultfd userfaultfd = make_userfaultfd(everywhere());
    userfaultfd.register_range(memory.address(), memory.size(), kRegisterMissing);
    unsigned char seen = 0;
    std::thread toucher([&] { seen = peek(memory.page(1) + 5); });
    const Message message = next_message(userfaultfd);
    const auto& fault = std::get<PagefaultMessage>(message);
    EXPECT_TRUE(fault.is_missing() && !fault.is_write());
    EXPECT_EQ(fault.host_address, memory.address(1));
    const Mapping source = page_of(memory.page_size(), 0xA5);
    EXPECT_EQ(userfaultfd.copy(memory.address(1), source.data(), memory.page_size()).status, FillStatus::done);
    toucher.join();
    EXPECT_EQ(seen, 0xA5);
}

TEST_P(UserfaultfdFill, PoisonedPagesRaiseSigbusUntilCopiedOver) {
    if (!kernel_has(only(Feature::poison))) {
        GTEST_SKIP() << "the kernel has no UFFDIO_POISON (Linux 6.6)";
    }
    const Memory memory(GetParam(), 2);
    const Userfaultfd userfaultfd = make_userfaultfd(everywhere() | Feature::poison);
    userfaultfd.register_range(memory.address(), memory.size(), kRegisterMissing);
    const FillOutcome outcome = userfaultfd.poison(memory.address(), memory.size());
    EXPECT_EQ(outcome.status, FillStatus::done);
    EXPECT_EQ(outcome.done_bytes, memory.size());
    EXPECT_TRUE(raises_sigbus(memory.page(0), false));
    EXPECT_TRUE(raises_sigbus(memory.page(1), true));
    EXPECT_FALSE(has_message(userfaultfd));
    const Mapping source = page_of(memory.page_size(), 0x5A);
    EXPECT_EQ(userfaultfd.copy(memory.address(0), source.data(), memory.page_size()).status, FillStatus::done);
    EXPECT_FALSE(raises_sigbus(memory.page(0), false));
    EXPECT_EQ(peek(memory.page(0)), 0x5A);
    EXPECT_EQ(userfaultfd.poison(memory.address(0), memory.page_size()).status, FillStatus::present);
}

TEST_P(UserfaultfdFill, EveryFillSaysAgainWhileAnEventIsPending) {
    const Memory memory(GetParam(), 4);
    const Userfaultfd userfaultfd = make_userfaultfd(everywhere());
    std::uint64_t modes = kRegisterMissing | kRegisterWriteProtect;
    modes |= has_alias(GetParam()) ? kRegisterMinor : 0;
    userfaultfd.register_range(memory.address(), memory.size(), modes);
    const Mapping source = page_of(memory.page_size(), 1);
    const std::size_t size = memory.page_size();
    std::thread remover([&] { EXPECT_EQ(::madvise(memory.page(2), size, MADV_DONTNEED), 0); });
    ASSERT_TRUE(eventually([&] { return has_message(userfaultfd); }));
    // The remover waits for its event to be read, for as long as we like.
    const auto is_again = [](const FillOutcome& outcome) {
        return outcome.status == FillStatus::again && outcome.errno_value == EAGAIN && outcome.done_bytes == 0;
    };
    EXPECT_TRUE(is_again(userfaultfd.copy(memory.address(), source.data(), size)));
    EXPECT_TRUE(is_again(userfaultfd.poison(memory.address(), size)));
    EXPECT_TRUE(is_again(userfaultfd.write_protect(memory.address(), size, kModeWriteProtect)));
    EXPECT_TRUE(is_again(userfaultfd.continue_range(memory.address(), size)));
    if (!is_huge(GetParam())) {
        EXPECT_TRUE(is_again(userfaultfd.zero(memory.address(), size)));
    }
    const auto removed = std::get<RemoveMessage>(next_message(userfaultfd));
    EXPECT_EQ(removed.host_start, memory.address(2));
    EXPECT_EQ(removed.host_end, memory.address(3));
    // Reading is not the end of it: the remover has to run first.
    EXPECT_TRUE(eventually([&] {
        const FillStatus status = userfaultfd.copy(memory.address(), source.data(), size).status;
        EXPECT_TRUE(status == FillStatus::again || status == FillStatus::done);
        return status == FillStatus::done;
    }));
    remover.join();
    EXPECT_EQ(peek(memory.page(0)), 1);
}

TEST_P(UserfaultfdFill, PartialProgressIsResumedAndTheRealReasonGiven) {
    const Memory memory(GetParam(), 4);
    const Userfaultfd userfaultfd = make_userfaultfd(everywhere());
    userfaultfd.register_range(memory.address(), memory.size(), kRegisterMissing);
    const Mapping source = page_of(memory.size(), 3);
    const std::size_t size = memory.page_size();
    ASSERT_EQ(userfaultfd.copy(memory.address(2), source.data(), size).status, FillStatus::done);
    const FillOutcome present = userfaultfd.copy(memory.address(), source.data(), memory.size());
    EXPECT_EQ(present.status, FillStatus::present);
    EXPECT_EQ(present.errno_value, EEXIST);
    EXPECT_EQ(present.done_bytes, 2 * size);
    EXPECT_EQ(peek(memory.page(1)), 3);
    // The last page, from a source that ends in the middle.
    Memory truncated(GetParam() == Kind::anonymous ? Kind::anonymous : Kind::shared_memory, 2);
    ASSERT_EQ(::munmap(truncated.page(1), truncated.page_size()), 0);
    const FillOutcome unreadable = userfaultfd.copy(memory.address(3), truncated.page(1), size);
    EXPECT_EQ(unreadable.status, FillStatus::bad_source);
    EXPECT_EQ(unreadable.done_bytes, 0U);
}

INSTANTIATE_TEST_SUITE_P(Kinds, UserfaultfdFill,
                         ::testing::Values(Kind::anonymous, Kind::shared_memory, Kind::private_memfd, Kind::hugetlb,
                                           Kind::shared_hugetlb),
                         ::testing::PrintToStringParamName());

}  // namespace
}  // namespace vmthaw::testing_support
