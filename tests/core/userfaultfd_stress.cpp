#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <thread>
#include <tuple>
#include <vector>

#include "userfaultfd_support.hpp"

// The kernel's uffd-stress: every page is discarded and touched again, over and over, in every mixture of random order,
// racing faults, verification of whole pages, and a handler that polls or blocks in read(2).
namespace vmthaw::testing_support {
namespace {

constexpr std::size_t kCounterOffset = 64;
constexpr std::size_t kTouchers = 2;

unsigned char value_of(std::size_t page) { return static_cast<unsigned char>(page % 251 + 1); }

void add_one(std::byte* where) {
    // JUSTIFICATION: the memory is a mapping, so any object of this size may live in it; the touchers race on purpose.
    __atomic_fetch_add(reinterpret_cast<std::uint32_t*>(where), 1U, __ATOMIC_RELAXED);
}

void discard(Kind kind, std::byte* where, std::size_t size) {
    // Shared memory keeps its pages in the page cache through MADV_DONTNEED.
    ASSERT_EQ(::madvise(where, size, has_alias(kind) ? MADV_REMOVE : MADV_DONTNEED), 0);
}

struct Bounce {
    bool random;
    bool racing;
    bool verify;
    bool polls;
};
std::ostream& operator<<(std::ostream& out, const Bounce& bounce) {
    return out << (bounce.random ? "random_" : "ordered_") << (bounce.racing ? "racing_" : "split_")
               << (bounce.verify ? "verify_" : "glance_") << (bounce.polls ? "poll" : "read");
}

std::vector<Bounce> all_bounces() {
    std::vector<Bounce> bounces;
    for (unsigned bits = 0; bits < 16; ++bits) {
        bounces.push_back({(bits & 1U) != 0, (bits & 2U) != 0, (bits & 4U) != 0, (bits & 8U) != 0});
    }
    return bounces;
}

// Serves faults of `memory`, whose last page is the order to stop: a handler that blocks in read(2) has no other way.
class StressServer {
public:
    StressServer(const Memory& memory, const Userfaultfd& userfaultfd, const std::vector<Mapping>& sources, bool polls)
        : memory_(memory), userfaultfd_(userfaultfd), sources_(sources), polls_(polls), thread_([this] { serve(); }) {}
    ~StressServer() {
        (void)peek(memory_.page(memory_.pages() - 1));
        thread_.join();
    }
    StressServer(const StressServer&) = delete;
    StressServer& operator=(const StressServer&) = delete;

    void fill(std::size_t page) const {
        const std::uint64_t address = memory_.address(page);
        const FillStatus status = userfaultfd_.copy(address, sources_[page].data(), memory_.page_size()).status;
        if (status == FillStatus::present) {
            EXPECT_EQ(userfaultfd_.wake(address, memory_.page_size()), 0);
            return;
        }
        EXPECT_EQ(status, FillStatus::done);
    }

private:
    void serve() const {
        UffdMessage messages[8];
        for (bool stopped = false; !stopped;) {
            if (polls_) {
                (void)eventually([this] { return has_message(userfaultfd_); });
            }
            const ReadOutcome outcome = userfaultfd_.read(messages);
            for (std::size_t index = 0; index < outcome.count; ++index) {
                const Message message = decode(messages[index]);
                const std::size_t page =
                    (std::get<PagefaultMessage>(message).host_address - memory_.address()) / memory_.page_size();
                fill(page);
                stopped = stopped || page + 1 == memory_.pages();
            }
        }
    }

    const Memory& memory_;
    const Userfaultfd& userfaultfd_;
    const std::vector<Mapping>& sources_;
    bool polls_;
    std::thread thread_;
};

class UserfaultfdStress : public ::testing::TestWithParam<std::tuple<Kind, Bounce>> {
protected:
    void SetUp() override {
        if (is_huge(kind())) {
            reserved_ = std::make_unique<ReservedHugePages>(10);
            if (!reserved_->reason.empty()) {
                GTEST_SKIP() << reserved_->reason;
            }
        }
    }
    static Kind kind() { return std::get<0>(GetParam()); }

    // One toucher: every page of its share counts one more and holds what the source holds.
    static void touch(const Memory& memory, std::vector<std::size_t> order, bool verify) {
        std::vector<std::byte> expected(memory.page_size());
        for (const std::size_t page : order) {
            std::byte* const where = memory.page(page);
            add_one(where + kCounterOffset);
            if (peek(where) != value_of(page)) {
                ADD_FAILURE() << "page " << page << " holds " << int{peek(where)};
            }
            if (verify) {
                std::memset(expected.data(), value_of(page), expected.size());
                const std::size_t rest = kCounterOffset + sizeof(std::uint32_t);
                EXPECT_EQ(std::memcmp(where, expected.data(), kCounterOffset), 0) << "page " << page;
                EXPECT_EQ(std::memcmp(where + rest, expected.data(), expected.size() - rest), 0) << "page " << page;
            }
        }
    }

private:
    std::unique_ptr<ReservedHugePages> reserved_;
};

TEST_P(UserfaultfdStress, NoTouchIsLost) {
    const Bounce bounce = std::get<1>(GetParam());
    const std::size_t pages = is_huge(kind()) ? 4 : 128;
    const Memory memory(kind(), pages + 1);
    const Userfaultfd userfaultfd = make_userfaultfd(Feature::missing_shmem | Feature::missing_hugetlbfs);
    userfaultfd.set_nonblocking(bounce.polls);
    userfaultfd.register_range(memory.address(), memory.size(), kRegisterMissing);
    std::vector<Mapping> sources;
    for (std::size_t page = 0; page <= pages; ++page) {
        sources.push_back(page_of(memory.page_size(), value_of(page)));
        std::memset(sources.back().data() + kCounterOffset, 0, sizeof(std::uint32_t));
    }
    const StressServer server(memory, userfaultfd, sources, bounce.polls);
    std::mt19937 generator(4711);
    for (int round = 0; round < 3; ++round) {
        std::vector<std::size_t> order(pages);
        std::iota(order.begin(), order.end(), std::size_t{0});
        if (bounce.random) {
            std::shuffle(order.begin(), order.end(), generator);
        }
        std::vector<std::thread> threads;
        for (std::size_t toucher = 0; toucher < kTouchers; ++toucher) {
            std::vector<std::size_t> share = order;
            if (!bounce.racing) {
                std::erase_if(share, [&](std::size_t page) { return page % kTouchers != toucher; });
            }
            threads.emplace_back([&memory, &bounce, share] { touch(memory, share, bounce.verify); });
        }
        // Fills nobody asked for race with those that somebody did.
        threads.emplace_back([&server, pages] {
            for (std::size_t page = pages; page-- > 0;) {
                server.fill(page);
            }
        });
        for (std::thread& thread : threads) {
            thread.join();
        }
        for (std::size_t page = 0; page < pages; ++page) {
            std::uint32_t touches = 0;
            std::memcpy(&touches, memory.page(page) + kCounterOffset, sizeof touches);
            ASSERT_EQ(touches, bounce.racing ? kTouchers : 1U) << "page " << page << ", round " << round;
        }
        discard(kind(), memory.page(0), pages * memory.page_size());
    }
}

INSTANTIATE_TEST_SUITE_P(Kinds, UserfaultfdStress,
                         testing::Combine(::testing::Values(Kind::anonymous, Kind::shared_memory, Kind::private_memfd,
                                                            Kind::hugetlb, Kind::shared_hugetlb),
                                          ::testing::ValuesIn(all_bounces())),
                         [](const auto& parameters) {
                             return ::testing::PrintToString(std::get<0>(parameters.param)) + "_" +
                                    ::testing::PrintToString(std::get<1>(parameters.param));
                         });

}  // namespace
}  // namespace vmthaw::testing_support
