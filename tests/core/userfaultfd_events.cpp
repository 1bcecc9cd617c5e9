#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>

#include <memory>
#include <optional>
#include <thread>

#include "base/error.hpp"
#include "userfaultfd_support.hpp"

// Faults that become signals and events of the address space: the kernel's cases sigbus, sigbus-wp, events, events-wp.
namespace vmthaw::testing_support {
namespace {

class UserfaultfdEvents : public ::testing::TestWithParam<Kind> {
protected:
    void SetUp() override {
        if (is_huge(GetParam())) {
            reserved_ = std::make_unique<ReservedHugePages>(24);
            if (!reserved_->reason.empty()) {
                GTEST_SKIP() << reserved_->reason;
            }
        }
    }
    static Features base() { return Feature::missing_shmem | Feature::missing_hugetlbfs; }
    static Features protecting() { return base() | Feature::pagefault_flag_wp | Feature::wp_hugetlbfs_shmem; }

private:
    std::unique_ptr<ReservedHugePages> reserved_;
};

TEST_P(UserfaultfdEvents, SigbusComesInsteadOfAMessage) {
    const Memory memory(GetParam(), 2);
    const Userfaultfd userfaultfd = make_userfaultfd(base() | Feature::sigbus);
    userfaultfd.register_range(memory.address(), memory.size(), kRegisterMissing);
    EXPECT_TRUE(raises_sigbus(memory.page(0), false));
    EXPECT_TRUE(raises_sigbus(memory.page(1), true));
    EXPECT_FALSE(has_message(userfaultfd));
    const Mapping source = page_of(memory.page_size(), 4);
    ASSERT_EQ(userfaultfd.copy(memory.address(), source.data(), memory.page_size()).status, FillStatus::done);
    EXPECT_FALSE(raises_sigbus(memory.page(0), true));
}

// What the signal handler of the next tests works on.
struct Resolver {
    const Userfaultfd* userfaultfd;
    const std::byte* source;
    std::size_t page_size;
    bool is_protection;
    std::atomic<int> calls;
    std::atomic<FillStatus> status;
};
Resolver g_resolver;

// Fills are fit for a signal handler: they neither throw nor allocate.
void resolve(int /*signal*/, siginfo_t* info, void* /*context*/) {
    const std::uint64_t page = address_of(info->si_addr) / g_resolver.page_size * g_resolver.page_size;
    ++g_resolver.calls;
    g_resolver.status = g_resolver.is_protection
                            ? g_resolver.userfaultfd->write_protect(page, g_resolver.page_size, 0).status
                            : g_resolver.userfaultfd->copy(page, g_resolver.source, g_resolver.page_size).status;
}

class ResolvingHandler {
public:
    ResolvingHandler(const Userfaultfd& userfaultfd, const Mapping& source, bool is_protection) {
        g_resolver.userfaultfd = &userfaultfd;
        g_resolver.source = source.data();
        g_resolver.page_size = source.size();
        g_resolver.is_protection = is_protection;
        g_resolver.calls = 0;
        struct sigaction action{};
        action.sa_sigaction = resolve;
        action.sa_flags = SA_SIGINFO;
        ::sigaction(SIGBUS, &action, &former_);
    }
    ~ResolvingHandler() { ::sigaction(SIGBUS, &former_, nullptr); }
    ResolvingHandler(const ResolvingHandler&) = delete;
    ResolvingHandler& operator=(const ResolvingHandler&) = delete;

private:
    struct sigaction former_{};
};

TEST_P(UserfaultfdEvents, ASigbusHandlerCanFillThePageItself) {
    const Memory memory(GetParam(), 2);
    const Userfaultfd userfaultfd = make_userfaultfd(base() | Feature::sigbus);
    userfaultfd.register_range(memory.address(), memory.size(), kRegisterMissing);
    const Mapping source = page_of(memory.page_size(), 0x3C);
    const ResolvingHandler handler(userfaultfd, source, false);
    EXPECT_EQ(peek(memory.page(0) + 100), 0x3C);
    poke(memory.page(1), 1);
    EXPECT_EQ(g_resolver.calls, 2);
    EXPECT_EQ(g_resolver.status, FillStatus::done);
}

TEST_P(UserfaultfdEvents, ASigbusHandlerCanUnprotectThePageItself) {
    if (!kernel_has(protecting())) {
        GTEST_SKIP() << "the kernel lacks write protection of shared memory (Linux 5.19)";
    }
    const Memory memory(GetParam(), 1);
    const Userfaultfd userfaultfd = make_userfaultfd(protecting() | Feature::sigbus);
    userfaultfd.register_range(memory.address(), memory.size(), kRegisterMissing | kRegisterWriteProtect);
    const Mapping source = page_of(memory.page_size(), 1);
    ASSERT_EQ(userfaultfd.copy(memory.address(), source.data(), memory.page_size(), kModeCopyWriteProtect).status,
              FillStatus::done);
    const ResolvingHandler handler(userfaultfd, source, true);
    EXPECT_EQ(peek(memory.page(0)), 1);
    EXPECT_EQ(g_resolver.calls, 0);
    poke(memory.page(0), 2);
    EXPECT_EQ(g_resolver.calls, 1);
    EXPECT_EQ(peek(memory.page(0)), 2);
    EXPECT_FALSE(has_message(userfaultfd));
}

TEST_P(UserfaultfdEvents, RemapIsFollowedByUnmapOfTheOldPlace) {
    // A place to move to, mapped so that no thread's stack comes to lie there, and aligned as hugetlb needs it.
    constexpr std::uint64_t kHuge = 2U << 20U;
    const Mapping reserved = Mapping::anonymous(2 * kHuge + kHuge);
    Memory memory(GetParam(), 2);
    const Userfaultfd userfaultfd =
        make_userfaultfd(base() | Feature::event_remap | Feature::event_unmap | Feature::event_remove);
    userfaultfd.register_range(memory.address(), memory.size(), kRegisterMissing);
    const std::uint64_t old_address = memory.address();
    const std::size_t size = memory.size();
    std::byte* const reserve = reserved.data() + (-address_of(reserved.data()) % kHuge);
    std::atomic<void*> moved{nullptr};
    std::thread remapper([&] { moved = ::mremap(memory.page(0), size, size, MREMAP_MAYMOVE | MREMAP_FIXED, reserve); });
    const Message first = next_message(userfaultfd);
    const auto* unmapped_target = std::get_if<UnmapMessage>(&first);
    ASSERT_EQ(unmapped_target, nullptr) << "the target is not registered";
    const auto& remap = std::get<RemapMessage>(first);
    EXPECT_EQ(remap.host_from, old_address);
    EXPECT_EQ(remap.host_to, address_of(reserve));
    EXPECT_EQ(remap.size_bytes, size);
    const auto unmap = std::get<UnmapMessage>(next_message(userfaultfd));
    EXPECT_EQ(unmap.host_start, old_address);
    EXPECT_EQ(unmap.host_end, old_address + size);
    remapper.join();
    ASSERT_EQ(moved, reserve);
    memory.moved_to(moved, size);
    const Mapping source = page_of(memory.page_size(), 9);
    // The registration moved along.
    EXPECT_TRUE(eventually([&] {
        return userfaultfd.copy(memory.address(), source.data(), memory.page_size()).status == FillStatus::done;
    }));
    EXPECT_EQ(userfaultfd.copy(old_address, source.data(), memory.page_size()).status, FillStatus::unmapped);
    userfaultfd.unregister_range(memory.address(), memory.size());
    EXPECT_EQ(peek(memory.page(0)), 9);
}

TEST_P(UserfaultfdEvents, UnmapEndsTheRange) {
    Memory memory(GetParam(), 2);
    const Userfaultfd userfaultfd = make_userfaultfd(base() | Feature::event_unmap);
    userfaultfd.register_range(memory.address(), memory.size(), kRegisterMissing);
    std::thread unmapper([&] { EXPECT_EQ(::munmap(memory.page(1), memory.page_size()), 0); });
    const auto unmap = std::get<UnmapMessage>(next_message(userfaultfd));
    unmapper.join();
    EXPECT_EQ(unmap.host_start, memory.address(1));
    EXPECT_EQ(unmap.host_end, memory.address(2));
    const Mapping source = page_of(memory.size(), 9);
    EXPECT_EQ(userfaultfd.copy(memory.address(1), source.data(), memory.page_size()).status, FillStatus::unmapped);
    const FillOutcome across = userfaultfd.copy(memory.address(), source.data(), memory.size());
    EXPECT_EQ(across.status, FillStatus::unmapped);
    EXPECT_EQ(across.done_bytes, 0U) << "a range that crosses the end of a mapping is refused whole";
    userfaultfd.unregister_range(memory.address(), memory.page_size());
    memory.moved_to(memory.page(0), memory.page_size());
}

// The child touches every page and discards one; its descriptor arrives by the fork event and serves it. The parameter
// of `run` is the kernel's events-wp: filled pages are protected, and the child's writes have to be let through.
class ForkedChild {
public:
    ForkedChild(const Memory& memory, bool protect) : memory_(memory), protect_(protect) {}

    void run(Features features) {
        const Userfaultfd userfaultfd = make_userfaultfd(features | Feature::event_fork | Feature::event_remove);
        userfaultfd.register_range(memory_.address(), memory_.size(),
                                   protect_ ? kRegisterMissing | kRegisterWriteProtect : kRegisterMissing);
        std::optional<Userfaultfd> child;
        std::unique_ptr<Server> child_server;
        {
            const Server server(userfaultfd, [&](const Message& message) {
                if (const auto* fork = std::get_if<ForkMessage>(&message)) {
                    child.emplace(Userfaultfd::adopt(UniqueFd(fork->fd)));
                    child_server = std::make_unique<Server>(*child, [&](const Message& m) { handle(*child, m); });
                }
            });
            EXPECT_EQ(in_child([this] { return touch(); }), 0);
        }
        ASSERT_TRUE(child);
        EXPECT_EQ(child->features(), userfaultfd.features());
        child_server.reset();
        const Mapping source = page_of(memory_.page_size(), 1);
        EXPECT_EQ(child->copy(memory_.address(), source.data(), memory_.page_size()).status, FillStatus::gone);
        EXPECT_GT(missing_faults_, 0U);
        EXPECT_EQ(removed_, 1U);
        EXPECT_EQ(protection_faults_ > 0, protect_);
    }

private:
    // In the child: 0, or the number of the check that failed.
    [[nodiscard]] int touch() const {
        for (std::size_t index = 0; index < memory_.pages(); ++index) {
            if (peek(memory_.page(index)) != static_cast<unsigned char>(index + 1)) {
                return 1;
            }
            poke(memory_.page(index), 0xEE);
            if (peek(memory_.page(index)) != 0xEE) {
                return 2;
            }
        }
        return ::madvise(memory_.page(0), memory_.page_size(), MADV_DONTNEED) == 0 ? 0 : 3;
    }

    void handle(const Userfaultfd& child, const Message& message) {
        const std::size_t size = memory_.page_size();
        if (const auto* fault = std::get_if<PagefaultMessage>(&message)) {
            const std::uint64_t page = fault->host_address / size * size;
            if (fault->is_write_protect()) {
                ++protection_faults_;
                EXPECT_EQ(child.write_protect(page, size, 0).status, FillStatus::done);
                return;
            }
            ++missing_faults_;
            const auto value = static_cast<unsigned char>((page - memory_.address()) / size + 1);
            const Mapping source = page_of(size, value);
            EXPECT_EQ(child.copy(page, source.data(), size, protect_ ? kModeCopyWriteProtect : 0).status,
                      FillStatus::done);
        } else if (const auto* remove = std::get_if<RemoveMessage>(&message)) {
            EXPECT_EQ(remove->host_start, memory_.address());
            ++removed_;
        }
    }

    const Memory& memory_;
    bool protect_;
    std::atomic<std::size_t> missing_faults_{0};
    std::atomic<std::size_t> protection_faults_{0};
    std::atomic<std::size_t> removed_{0};
};

TEST_P(UserfaultfdEvents, AForkedChildIsServedThroughItsOwnDescriptor) {
    const Memory memory(GetParam(), 8);
    ForkedChild(memory, false).run(base());
}

TEST_P(UserfaultfdEvents, AForkedChildIsServedWithWriteProtection) {
    if (!kernel_has(protecting())) {
        GTEST_SKIP() << "the kernel lacks write protection of shared memory (Linux 5.19)";
    }
    const Memory memory(GetParam(), 8);
    ForkedChild(memory, true).run(protecting());
}

INSTANTIATE_TEST_SUITE_P(Kinds, UserfaultfdEvents,
                         ::testing::Values(Kind::anonymous, Kind::shared_memory, Kind::private_memfd, Kind::hugetlb,
                                           Kind::shared_hugetlb),
                         ::testing::PrintToStringParamName());

}  // namespace
}  // namespace vmthaw::testing_support
