// The faults of the session that this one descends from, each as a test of its name.
#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <limits>
#include <memory>
#include <thread>
#include <utility>

#include "dax/dax_log.hpp"
#include "dax_support.hpp"

namespace vmthaw {
namespace {

TEST(DaxSeedFaults, SetUpOfTheSameOffsetAnswersEexist) {
    RecordedSession dax;
    ASSERT_EQ(dax.session.set_up(1, set_up_of(0, 0, kChunk)), 0);
    EXPECT_EQ(dax.session.set_up(1, set_up_of(0, 0, kChunk, kReadWrite)), 0) << "what Linux sends to write";
    const auto mappings = dax.session.mappings();
    ASSERT_EQ(mappings.size(), 1U);
    EXPECT_EQ(mappings[0].prot, kDaxRead | kDaxWrite);
    EXPECT_EQ(dax.backend->given(), 2U);
    EXPECT_EQ(dax.backend->out(), 1U);
    const auto calls = dax.mapper->take_calls();
    ASSERT_EQ(calls.size(), 2U);
    EXPECT_TRUE(calls[1].is_map) << "replaced in one step, without a hole between";
}

TEST(DaxSeedFaults, RollBackUnmapsTheLiveMapping) {
    RecordedSession dax;
    ASSERT_EQ(dax.session.set_up(1, set_up_of(0, kChunk, kChunk)), 0);
    static_cast<void>(dax.mapper->take_calls());
    dax.mapper->fail_maps(ENOMEM);
    EXPECT_EQ(dax.session.set_up(2, set_up_of(0, 0, kChunk)), ENOMEM);
    for (const auto& call : dax.mapper->take_calls()) {
        EXPECT_TRUE(call.is_map);
    }
    const auto mappings = dax.session.mappings();
    ASSERT_EQ(mappings.size(), 1U);
    EXPECT_EQ(mappings[0].node, 1U);
    EXPECT_EQ(mappings[0].file_offset, kChunk);
    EXPECT_EQ(dax.backend->out(), 1U) << "the failed set-up's lease went back, the live one did not";
}

// Lets another thread in while it unmaps, and looks whether that gets anywhere.
class InvitingMapper final : public DaxMapper {
public:
    [[nodiscard]] int map(std::uint64_t, const Lease&, std::uint32_t) noexcept override {
        mapped = true;
        return 0;
    }
    [[nodiscard]] int unmap(std::uint64_t, std::uint64_t) noexcept override {
        if (invite) {
            other = std::thread(std::exchange(invite, {}));
            const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(50);
            while (std::chrono::steady_clock::now() < end && !came_in) {
                std::this_thread::yield();
            }
        }
        mapped = false;
        return 0;
    }
    std::function<void()> invite;
    std::atomic<bool> came_in{false};
    bool mapped = false;
    std::thread other;
};

// A set-up of the same range must not come between the record's end and the unmapping, which would unmap what is new.
TEST(DaxSeedFaults, TheLockIsLetGoBeforeUnmapping) {
    const auto backend = std::make_shared<LedgerBackend>();
    const auto mapper = std::make_shared<InvitingMapper>();
    backend->add(1, kChunk);
    DaxSession session(backend, mapper, {.guest_base = kBase, .window_bytes = 8 * kChunk});
    ASSERT_EQ(session.set_up(1, set_up_of(0, 0, kChunk)), 0);
    mapper->invite = [&] {
        EXPECT_EQ(session.set_up(1, set_up_of(0, 0, kChunk)), 0);
        mapper->came_in = true;
    };
    EXPECT_EQ(session.remove(RemoveMappingOne{0, kChunk}), 0);
    mapper->other.join();
    EXPECT_TRUE(mapper->mapped);
    EXPECT_EQ(session.active_slot_count(), 1U);
    EXPECT_EQ(backend->out(), 1U);
}

TEST(DaxSeedFaults, PartialOverlapsAreUnseen) {
    RecordedSession dax;
    ASSERT_EQ(dax.session.set_up(1, set_up_of(0, 0, 4 * kChunk)), 0);
    ASSERT_EQ(dax.session.set_up(2, set_up_of(kChunk, 8 * kChunk, kChunk)), 0);
    const auto mappings = dax.session.mappings();
    ASSERT_EQ(mappings.size(), 3U);
    EXPECT_EQ(mappings[0].length_bytes, kChunk);
    EXPECT_EQ(mappings[1].node, 2U);
    EXPECT_EQ(mappings[2].window_offset, 2 * kChunk);
    EXPECT_EQ(mappings[2].file_offset, 2 * kChunk) << "the piece behind goes on where it was";
    EXPECT_EQ(mappings[2].length_bytes, 2 * kChunk);
    EXPECT_EQ(dax.backend->out(), 2U);
    EXPECT_EQ(dax.session.remove(RemoveMappingOne{0, kChunk}), 0);
    EXPECT_EQ(dax.backend->out(), 2U) << "shared by both pieces";
    EXPECT_EQ(dax.session.remove(RemoveMappingOne{2 * kChunk, 2 * kChunk}), 0);
    EXPECT_EQ(dax.backend->out(), 1U) << "with the last piece";
}

TEST(DaxSeedFaults, FileOffsetIsUnchecked) {
    RecordedSession dax;
    constexpr std::uint64_t kLast = std::numeric_limits<std::int64_t>::max();
    for (const std::uint64_t offset : {std::uint64_t{1}, std::uint64_t{2048}, kLast - 4095, ~std::uint64_t{4095},
                                       kLast / 4096 * 4096 - kChunk + 4096}) {
        EXPECT_EQ(dax.session.set_up(1, set_up_of(0, offset, kChunk)), EINVAL) << offset;
    }
    EXPECT_EQ(dax.backend->given(), 0U) << "nothing was done";
    EXPECT_EQ(dax.session.set_up(1, set_up_of(0, kLast / 4096 * 4096 - kChunk, kChunk)), 0);
}

TEST(DaxSeedFaults, LengthZeroIsUnchecked) {
    RecordedSession dax;
    EXPECT_EQ(dax.session.set_up(1, set_up_of(0, 0, 0)), EINVAL);
    EXPECT_EQ(dax.session.remove(RemoveMappingOne{0, 0}), EINVAL);
    EXPECT_EQ(dax.session.set_up(1, set_up_of(64 * kChunk, 0, 0)), EINVAL);
    EXPECT_EQ(dax.backend->given(), 0U);
}

TEST(DaxSeedFaults, BaseOverflowIsUnchecked) {
    constexpr std::uint64_t kTop = ~std::uint64_t{0} - 4095;
    const auto make = [](std::uint64_t base, std::uint64_t bytes) {
        const RecordedSession dax({.guest_base = base, .window_bytes = bytes});
    };
    EXPECT_THROW(make(kTop, 2 * 4096), ArgumentError);
    EXPECT_THROW(make(kTop, 4096), ArgumentError);
    EXPECT_NO_THROW(make(kTop - 4096, 4096));
    // moffset + len that wraps round: the bounds are subtractions.
    RecordedSession dax;
    EXPECT_EQ(dax.session.set_up(1, set_up_of(~std::uint64_t{0} - kChunk + 1, 0, kChunk)), EINVAL);
    EXPECT_EQ(dax.session.set_up(1, set_up_of(kChunk, 0, ~std::uint64_t{0} - kChunk + 1)), EINVAL);
    EXPECT_EQ(dax.session.remove(RemoveMappingOne{kChunk, ~std::uint64_t{0} - kChunk + 1}), EINVAL);
    EXPECT_EQ(dax.session.remove(RemoveMappingOne{~std::uint64_t{0} - kChunk + 1, kChunk}), EINVAL);
    EXPECT_EQ(dax.session.set_up(1, set_up_of(63 * kChunk, 0, 2 * kChunk)), EINVAL);
    EXPECT_EQ(dax.session.set_up(1, set_up_of(64 * kChunk, 0, kChunk)), EINVAL);
    EXPECT_EQ(dax.session.set_up(1, set_up_of(63 * kChunk, 0, kChunk)), 0);
}

TEST(DaxSeedFaults, NothingIsTornDown) {
    const auto backend = std::make_shared<LedgerBackend>();
    const auto mapper = std::make_shared<RecordingMapper>();
    backend->add(1, kChunk);
    {
        DaxSession session(backend, mapper, {.guest_base = kBase, .window_bytes = 8 * kChunk});
        for (std::uint64_t i = 0; i < 8; ++i) {
            ASSERT_EQ(session.set_up(1, set_up_of(i * kChunk, 0, kChunk)), 0);
        }
        EXPECT_EQ(session.reset(), 0);  // INIT again, DESTROY, device reset
        EXPECT_EQ(backend->out(), 0U);
        EXPECT_EQ(session.active_slot_count(), 0U);
        ASSERT_EQ(session.set_up(1, set_up_of(0, 0, kChunk)), 0);
        static_cast<void>(mapper->take_calls());
    }
    EXPECT_EQ(backend->out(), 0U) << "the destructor";
    const auto calls = mapper->take_calls();
    ASSERT_EQ(calls.size(), 1U);
    EXPECT_FALSE(calls[0].is_map);
}

TEST(DaxSeedFaults, TheEnvironmentIsReadOnEveryCall) {
    RecordedSession dax;
    ASSERT_EQ(dax.session.set_up(1, set_up_of(0, 0, kChunk)), 0);
    const bool before = dax_log_is_on();
    ASSERT_EQ(::setenv("VMTHAW_DAX_TRACE", "stderr", 1), 0);
    EXPECT_EQ(dax_log_is_on(), before) << "read once, when the first session was asked for something";
    ASSERT_EQ(::unsetenv("VMTHAW_DAX_TRACE"), 0);
}

}  // namespace
}  // namespace vmthaw
