#include <gtest/gtest.h>
#include <sys/mman.h>

#include <chrono>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "userfaultfd_support.hpp"

// A storm of removes during touches, against the protocol that a handler has to follow.
namespace vmthaw::testing_support {
namespace {

// Source bytes until a page is first removed, zeros for ever after. Removes of a batch come before its faults, and a
// fill that has to be repeated is decided afresh.
class RemoveServer {
public:
    RemoveServer(const Memory& memory, const Userfaultfd& userfaultfd, const Mapping& source)
        : memory_(memory),
          userfaultfd_(userfaultfd),
          source_(source),
          removed_(memory.pages(), false),
          zeros_(page_of(memory.page_size(), 0)),
          thread_([this] { serve(); }) {}
    ~RemoveServer() {
        stopping_ = true;
        thread_.join();
    }
    RemoveServer(const RemoveServer&) = delete;
    RemoveServer& operator=(const RemoveServer&) = delete;

private:
    void serve() {
        std::vector<std::size_t> waiting;
        UffdMessage messages[32];
        while (!stopping_ || !waiting.empty()) {
            if (!has_message(userfaultfd_)) {
                std::this_thread::sleep_for(std::chrono::microseconds(20));
            }
            const ReadOutcome outcome = userfaultfd_.read(messages);
            for (std::size_t index = 0; index < outcome.count; ++index) {
                const Message message = decode(messages[index]);
                if (const auto* remove = std::get_if<RemoveMessage>(&message)) {
                    removed_[(remove->host_start - memory_.address()) / memory_.page_size()] = true;
                } else if (const auto* fault = std::get_if<PagefaultMessage>(&message)) {
                    waiting.push_back((fault->host_address - memory_.address()) / memory_.page_size());
                }
            }
            std::erase_if(waiting, [this](std::size_t page) { return is_filled(page); });
        }
    }

    bool is_filled(std::size_t page) {
        const std::uint64_t address = memory_.address(page);
        const std::byte* const bytes = removed_[page] ? zeros_.data() : source_.data();
        const FillOutcome outcome = userfaultfd_.copy(address, bytes, memory_.page_size());
        if (outcome.status == FillStatus::again) {
            return false;
        }
        if (outcome.status == FillStatus::present) {
            EXPECT_EQ(userfaultfd_.wake(address, memory_.page_size()), 0);
            return true;
        }
        EXPECT_EQ(outcome.status, FillStatus::done);
        return true;
    }

    const Memory& memory_;
    const Userfaultfd& userfaultfd_;
    const Mapping& source_;
    std::vector<bool> removed_;
    Mapping zeros_;
    std::atomic<bool> stopping_{false};
    std::thread thread_;
};

class UserfaultfdRemoveStorm : public ::testing::TestWithParam<Kind> {};

TEST_P(UserfaultfdRemoveStorm, ARemovedPageReadsAsZerosWhileOthersAreTouched) {
    std::unique_ptr<ReservedHugePages> reserved;
    if (is_huge(GetParam())) {
        reserved = std::make_unique<ReservedHugePages>(10);
        if (!reserved->reason.empty()) {
            GTEST_SKIP() << reserved->reason;
        }
    }
    const std::size_t pages = is_huge(GetParam()) ? 8 : 64;
    const Memory memory(GetParam(), pages);
    const Userfaultfd userfaultfd =
        make_userfaultfd(Feature::missing_shmem | Feature::missing_hugetlbfs | Feature::event_remove);
    userfaultfd.register_range(memory.address(), memory.size(), kRegisterMissing);
    const Mapping source = page_of(memory.page_size(), 0xAB);
    {
        const RemoveServer server(memory, userfaultfd, source);
        const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(300);
        std::atomic<bool> raging{true};
        std::vector<std::thread> threads;
        for (std::size_t toucher = 0; toucher < 2; ++toucher) {
            threads.emplace_back([&, toucher] {
                std::mt19937 generator(static_cast<unsigned>(toucher));
                while (raging) {
                    const unsigned char seen = peek(memory.page(generator() % pages));
                    ASSERT_TRUE(seen == 0 || seen == 0xAB) << int{seen};
                }
            });
        }
        threads.emplace_back([&] {
            std::mt19937 generator(99);
            // Enough of them also where a huge page takes long to clear.
            for (int removes = 0; !HasFailure() && (removes < 12 || std::chrono::steady_clock::now() < deadline);
                 ++removes) {
                const std::size_t page = generator() % pages;
                // Shared memory keeps its pages in the page cache through MADV_DONTNEED.
                const int advice = has_alias(GetParam()) ? MADV_REMOVE : MADV_DONTNEED;
                EXPECT_EQ(::madvise(memory.page(page), memory.page_size(), advice), 0);
                EXPECT_EQ(peek(memory.page(page)), 0) << "page " << page << " came back from the source";
            }
            raging = false;
        });
        for (std::thread& thread : threads) {
            thread.join();
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Kinds, UserfaultfdRemoveStorm,
                         ::testing::Values(Kind::anonymous, Kind::shared_memory, Kind::private_memfd, Kind::hugetlb,
                                           Kind::shared_hugetlb),
                         ::testing::PrintToStringParamName());

}  // namespace
}  // namespace vmthaw::testing_support
