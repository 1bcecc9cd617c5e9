#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <thread>

#include "base/error.hpp"
#include "userfaultfd_support.hpp"

// Minor faults and CONTINUE on shared memory: the kernel's cases minor, minor-wp and minor-collapse.
namespace vmthaw::testing_support {
namespace {

constexpr int kMadvCollapse = 25;

class UserfaultfdMinor : public ::testing::TestWithParam<Kind> {
protected:
    void SetUp() override {
        if (!kernel_has(Feature::minor_shmem | Feature::minor_hugetlbfs | Feature::wp_hugetlbfs_shmem)) {
            GTEST_SKIP() << "the kernel lacks minor faults on shared memory (Linux 5.14) or their write protection";
        }
        if (is_huge(GetParam())) {
            reserved_ = std::make_unique<ReservedHugePages>(8);
            if (!reserved_->reason.empty()) {
                GTEST_SKIP() << reserved_->reason;
            }
        }
    }
    static Userfaultfd make(bool with_protection = false) {
        const Features features = Feature::minor_shmem | Feature::minor_hugetlbfs;
        return make_userfaultfd(with_protection ? features | Feature::pagefault_flag_wp | Feature::wp_hugetlbfs_shmem
                                                : features);
    }

private:
    std::unique_ptr<ReservedHugePages> reserved_;
};

TEST_P(UserfaultfdMinor, ContinueMapsWhatThePageCacheHolds) {
    const Memory memory(GetParam(), 4);
    for (std::size_t index = 0; index < memory.pages(); ++index) {
        std::memset(memory.alias(index), static_cast<int>(index + 1), memory.page_size());
    }
    const Userfaultfd userfaultfd = make();
    userfaultfd.register_range(memory.address(), memory.size(), kRegisterMinor);
    unsigned char seen = 0;
    std::thread toucher([&] { seen = peek(memory.page(1)); });
    const auto fault = std::get<PagefaultMessage>(next_message(userfaultfd));
    EXPECT_TRUE(fault.is_minor() && !fault.is_missing());
    EXPECT_EQ(fault.host_address, memory.address(1));
    poke(memory.alias(1), 0x99);  // the handler may still change the page
    const FillOutcome outcome = userfaultfd.continue_range(memory.address(1), memory.page_size());
    EXPECT_EQ(outcome.status, FillStatus::done);
    EXPECT_EQ(outcome.done_bytes, memory.page_size());
    toucher.join();
    EXPECT_EQ(seen, 0x99);
    EXPECT_EQ(userfaultfd.continue_range(memory.address(1), memory.page_size()).status, FillStatus::present);
    const FillOutcome partial = userfaultfd.continue_range(memory.address(0), memory.size());
    EXPECT_EQ(partial.status, FillStatus::present);
    EXPECT_EQ(partial.done_bytes, memory.page_size());
    EXPECT_EQ(peek(memory.page(0)), 1);
}

TEST_P(UserfaultfdMinor, ContinueWithoutACachedPageIsABadSource) {
    const Memory memory(GetParam(), 2);
    const Userfaultfd userfaultfd = make();
    userfaultfd.register_range(memory.address(), memory.size(), kRegisterMinor);
    const FillOutcome empty = userfaultfd.continue_range(memory.address(), memory.size());
    EXPECT_EQ(empty.status, FillStatus::bad_source);
    EXPECT_EQ(empty.errno_value, EFAULT);
    poke(memory.alias(0), 1);
    const FillOutcome half = userfaultfd.continue_range(memory.address(), memory.size());
    EXPECT_EQ(half.status, FillStatus::bad_source);
    EXPECT_EQ(half.done_bytes, memory.page_size());
    poke(memory.alias(1), 2);
    EXPECT_EQ(userfaultfd.continue_range(memory.address(1), memory.page_size()).status, FillStatus::done);
    EXPECT_EQ(peek(memory.page(1)), 2);
}

TEST_P(UserfaultfdMinor, ContinueCanProtectAgainstWriting) {
    const Memory memory(GetParam(), 1);
    poke(memory.alias(0), 5);
    const Userfaultfd userfaultfd = make(true);
    userfaultfd.register_range(memory.address(), memory.size(), kRegisterMinor | kRegisterWriteProtect);
    std::thread writer([&] { poke(memory.page(0), 6); });
    EXPECT_TRUE(std::get<PagefaultMessage>(next_message(userfaultfd)).is_minor());
    ASSERT_EQ(userfaultfd.continue_range(memory.address(), memory.size(), kModeCopyWriteProtect).status,
              FillStatus::done);
    EXPECT_EQ(std::get<PagefaultMessage>(next_message(userfaultfd)).flags, kFaultWrite | kFaultWriteProtect);
    EXPECT_EQ(peek(memory.alias(0)), 5);
    EXPECT_EQ(userfaultfd.write_protect(memory.address(), memory.size(), 0).status, FillStatus::done);
    writer.join();
    EXPECT_EQ(peek(memory.alias(0)), 6);
}

INSTANTIATE_TEST_SUITE_P(Kinds, UserfaultfdMinor, ::testing::Values(Kind::shared_memory, Kind::shared_hugetlb),
                         ::testing::PrintToStringParamName());

// Collapsing the page cache into a huge page must not map it behind the back of whoever waits for minor faults.
TEST(UserfaultfdMinorCollapse, CollapsedPagesStillFault) {
    if (!kernel_has(only(Feature::minor_shmem))) {
        GTEST_SKIP() << "the kernel lacks minor faults on shared memory (Linux 5.14)";
    }
    constexpr std::size_t kPages = 1024;
    const Memory memory(Kind::shared_memory, kPages);
    for (std::size_t index = 0; index < kPages; ++index) {
        poke(memory.alias(index), static_cast<unsigned char>(index));
    }
    const Userfaultfd userfaultfd = make_userfaultfd(only(Feature::minor_shmem));
    userfaultfd.register_range(memory.address(), memory.size(), kRegisterMinor);
    if (::madvise(memory.alias(0), memory.size(), kMadvCollapse) != 0) {
        GTEST_SKIP() << "MADV_COLLAPSE of shared memory: " << std::strerror(errno);
    }
    EXPECT_EQ(smaps_kib(memory.page(0), "ShmemPmdMapped"), 0);
    std::atomic<std::size_t> faults{0};
    const Server server(userfaultfd, [&](const Message& message) {
        if (const auto* fault = std::get_if<PagefaultMessage>(&message)) {
            EXPECT_TRUE(fault->is_minor());
            ++faults;
            EXPECT_EQ(userfaultfd.continue_range(fault->host_address, memory.page_size()).status, FillStatus::done);
        }
    });
    for (std::size_t index = 0; index < kPages; index += 7) {
        ASSERT_EQ(peek(memory.page(index)), static_cast<unsigned char>(index));
    }
    EXPECT_EQ(faults, (kPages + 6) / 7);
}

}  // namespace
}  // namespace vmthaw::testing_support
