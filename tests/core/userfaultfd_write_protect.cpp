#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <optional>
#include <thread>

#include "base/error.hpp"
#include "userfaultfd_pin.hpp"
#include "userfaultfd_support.hpp"

// Write protection on every kind of memory: the kernel's cases wp-fork, wp-fork-with-event, wp-fork-pin and
// wp-unpopulated.
namespace vmthaw::testing_support {
namespace {

class UserfaultfdWriteProtect : public ::testing::TestWithParam<Kind> {
protected:
    void SetUp() override {
        if (!kernel_has(Feature::pagefault_flag_wp | Feature::wp_hugetlbfs_shmem)) {
            GTEST_SKIP() << "the kernel lacks write protection of shared memory (Linux 5.19)";
        }
        if (is_huge(GetParam())) {
            reserved_ = std::make_unique<ReservedHugePages>(8);
            if (!reserved_->reason.empty()) {
                GTEST_SKIP() << reserved_->reason;
            }
        }
    }
    static Features base() {
        return Feature::pagefault_flag_wp | Feature::wp_hugetlbfs_shmem | Feature::missing_shmem |
               Feature::missing_hugetlbfs;
    }
    static bool is_protected(const std::byte* where) { return (pagemap_entry(where) & kPagemapUffdWp) != 0; }

    // Forks with page 0 of `memory` protected and tells whether it is in the child. With EVENT_FORK somebody reads the
    // event, and keeps the child's descriptor for as long as the child lives.
    static bool is_protected_in_child(const Userfaultfd& userfaultfd, const Memory& memory, bool with_event) {
        UniqueFd child_userfaultfd;
        std::optional<Server> server;
        if (with_event) {
            server.emplace(userfaultfd, [&](const Message& message) {
                if (const auto* fork = std::get_if<ForkMessage>(&message)) {
                    child_userfaultfd = UniqueFd(fork->fd);
                }
            });
        }
        const int result = in_child([&] { return is_protected(memory.page(0)) ? 1 : 0; });
        server.reset();
        EXPECT_EQ(static_cast<bool>(child_userfaultfd), with_event);
        return result == 1;
    }

private:
    std::unique_ptr<ReservedHugePages> reserved_;
};

TEST_P(UserfaultfdWriteProtect, AWriteArrivesWithBothFlagsAndGoesOnWhenUnprotected) {
    const Memory memory(GetParam(), 2);
    const Userfaultfd userfaultfd = make_userfaultfd(base());
    userfaultfd.register_range(memory.address(), memory.size(), kRegisterMissing | kRegisterWriteProtect);
    const Mapping source = page_of(memory.page_size(), 7);
    ASSERT_EQ(userfaultfd.copy(memory.address(), source.data(), memory.page_size(), kModeCopyWriteProtect).status,
              FillStatus::done);
    EXPECT_EQ(peek(memory.page(0)), 7) << "reading is not writing";
    EXPECT_FALSE(has_message(userfaultfd));
    std::thread writer([&] { poke(memory.page(0), 8); });
    const auto fault = std::get<PagefaultMessage>(next_message(userfaultfd));
    EXPECT_EQ(fault.flags, kFaultWrite | kFaultWriteProtect);
    EXPECT_EQ(fault.host_address, memory.address());
    EXPECT_EQ(peek(memory.page(0)), 7) << "the write must not have happened yet";
    const FillOutcome outcome = userfaultfd.write_protect(memory.address(), memory.page_size(), 0);
    EXPECT_EQ(outcome.status, FillStatus::done);
    EXPECT_EQ(outcome.done_bytes, memory.page_size());
    writer.join();
    EXPECT_EQ(peek(memory.page(0)), 8);
}

TEST_P(UserfaultfdWriteProtect, UnprotectWithoutWakeLeavesTheWriterAsleep) {
    const Memory memory(GetParam(), 1);
    const Userfaultfd userfaultfd = make_userfaultfd(base());
    userfaultfd.register_range(memory.address(), memory.size(), kRegisterMissing | kRegisterWriteProtect);
    const Mapping source = page_of(memory.page_size(), 7);
    ASSERT_EQ(userfaultfd.copy(memory.address(), source.data(), memory.page_size(), kModeCopyWriteProtect).status,
              FillStatus::done);
    std::atomic<bool> written{false};
    std::thread writer([&] {
        poke(memory.page(0), 8);
        written = true;
    });
    (void)next_message(userfaultfd);
    EXPECT_EQ(
        userfaultfd.write_protect(memory.address(), memory.page_size(), kModeWriteProtect | kModeWriteProtectDontWake)
            .status,
        FillStatus::invalid);
    EXPECT_EQ(userfaultfd.write_protect(memory.address(), memory.page_size(), kModeWriteProtectDontWake).status,
              FillStatus::done);
    EXPECT_FALSE(written);
    EXPECT_EQ(userfaultfd.wake(memory.address(), memory.page_size()), 0);
    writer.join();
    EXPECT_TRUE(written);
}

TEST_P(UserfaultfdWriteProtect, RangesThatAreNotRegisteredForItAreRefused) {
    const Memory memory(GetParam(), 2);
    const Userfaultfd userfaultfd = make_userfaultfd(base());
    EXPECT_EQ(userfaultfd.write_protect(memory.address(), memory.size(), kModeWriteProtect).status,
              FillStatus::unmapped);
    EXPECT_EQ(userfaultfd.write_protect(memory.address() + 1, memory.page_size(), kModeWriteProtect).status,
              FillStatus::invalid);
}

TEST_P(UserfaultfdWriteProtect, ForkKeepsProtectionOnlyWithTheForkEvent) {
    for (const bool with_event : {false, true}) {
        const Memory memory(GetParam(), 1);
        const Userfaultfd userfaultfd = make_userfaultfd(with_event ? base() | Feature::event_fork : base());
        userfaultfd.register_range(memory.address(), memory.size(), kRegisterWriteProtect);
        poke(memory.page(0), 1);
        ASSERT_EQ(userfaultfd.write_protect(memory.address(), memory.size(), kModeWriteProtect).status,
                  FillStatus::done);
        ASSERT_TRUE(is_protected(memory.page(0)));
        EXPECT_EQ(is_protected_in_child(userfaultfd, memory, with_event), with_event) << "event: " << with_event;
        EXPECT_TRUE(is_protected(memory.page(0)));
    }
}

// A pinned page is copied at fork, not shared: the protection bit has to come along all the same.
TEST_P(UserfaultfdWriteProtect, ForkKeepsProtectionOfPinnedPages) {
    for (const bool with_event : {false, true}) {
        const Memory memory(GetParam(), 1);
        const Userfaultfd userfaultfd = make_userfaultfd(with_event ? base() | Feature::event_fork : base());
        userfaultfd.register_range(memory.address(), memory.size(), kRegisterWriteProtect);
        poke(memory.page(0), 1);
        const PinnedMemory pinned(memory.page(0), memory.page_size());
        if (!pinned.reason.empty()) {
            GTEST_SKIP() << pinned.reason;
        }
        ASSERT_EQ(userfaultfd.write_protect(memory.address(), memory.size(), kModeWriteProtect).status,
                  FillStatus::done);
        EXPECT_EQ(is_protected_in_child(userfaultfd, memory, with_event), with_event) << "event: " << with_event;
        EXPECT_TRUE(is_protected(memory.page(0)));
    }
}

TEST_P(UserfaultfdWriteProtect, UnpopulatedPagesAreProtectedWhereTheFeatureSaysSo) {
    if (!kernel_has(only(Feature::wp_unpopulated))) {
        GTEST_SKIP() << "the kernel has no WP_UNPOPULATED (Linux 6.4)";
    }
    for (const bool with_feature : {false, true}) {
        const Memory memory(GetParam(), 2);
        const Userfaultfd userfaultfd = make_userfaultfd(with_feature ? base() | Feature::wp_unpopulated : base());
        userfaultfd.register_range(memory.address(), memory.size(), kRegisterWriteProtect);
        ASSERT_EQ(userfaultfd.write_protect(memory.address(), memory.size(), kModeWriteProtect).status,
                  FillStatus::done);
        // File-backed kinds keep a marker for pages that are not there; anonymous memory only with the feature.
        const bool expected = with_feature || GetParam() != Kind::anonymous;
        EXPECT_EQ(is_protected(memory.page(0)), expected) << "feature: " << with_feature;
        EXPECT_EQ(peek(memory.page(0)), 0) << "reading populates without ending the protection";
        EXPECT_EQ(is_protected(memory.page(0)), expected) << "feature: " << with_feature;
        if (!expected) {
            poke(memory.page(1), 1);
            EXPECT_FALSE(has_message(userfaultfd));
            continue;
        }
        std::thread writer([&] { poke(memory.page(1), 1); });
        EXPECT_EQ(std::get<PagefaultMessage>(next_message(userfaultfd)).flags, kFaultWrite | kFaultWriteProtect);
        EXPECT_EQ(userfaultfd.write_protect(memory.address(), memory.size(), 0).status, FillStatus::done);
        writer.join();
        EXPECT_FALSE(is_protected(memory.page(0)));
    }
}

TEST_P(UserfaultfdWriteProtect, AsynchronousProtectionResolvesWritesByItself) {
    if (!kernel_has(Feature::wp_async | Feature::wp_unpopulated)) {
        GTEST_SKIP() << "the kernel has no WP_ASYNC (Linux 6.7)";
    }
    const Memory memory(GetParam(), 2);
    const Userfaultfd userfaultfd = make_userfaultfd(base() | Feature::wp_async | Feature::wp_unpopulated);
    userfaultfd.register_range(memory.address(), memory.size(), kRegisterWriteProtect);
    ASSERT_EQ(userfaultfd.write_protect(memory.address(), memory.size(), kModeWriteProtect).status, FillStatus::done);
    poke(memory.page(1), 1);
    EXPECT_FALSE(has_message(userfaultfd));
    EXPECT_TRUE(is_protected(memory.page(0)));
    EXPECT_FALSE(is_protected(memory.page(1))) << "the page that was written lost its protection";
}

INSTANTIATE_TEST_SUITE_P(Kinds, UserfaultfdWriteProtect,
                         ::testing::Values(Kind::anonymous, Kind::shared_memory, Kind::private_memfd, Kind::hugetlb,
                                           Kind::shared_hugetlb),
                         ::testing::PrintToStringParamName());

}  // namespace
}  // namespace vmthaw::testing_support
