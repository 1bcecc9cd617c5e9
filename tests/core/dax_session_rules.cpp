#include <gtest/gtest.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "dax_support.hpp"

namespace vmthaw {
namespace {

std::vector<std::byte> remove_body(const std::vector<RemoveMappingOne>& entries) {
    std::vector<std::byte> bytes(4 + 16 * entries.size());
    const auto count = static_cast<std::uint32_t>(entries.size());
    std::memcpy(bytes.data(), &count, sizeof count);
    std::memcpy(bytes.data() + 4, entries.data(), 16 * entries.size());
    return bytes;
}

TEST(DaxSession, RefusesWhatIsUnalignedUnknownOrAllowsNothing) {
    RecordedSession dax({.guest_base = kBase, .window_bytes = 64 * kChunk, .granule_bytes = 16384});
    EXPECT_EQ(dax.session.map_alignment(), 14);
    for (const SetupMappingIn& in :
         {set_up_of(4096, 0, kChunk), set_up_of(0, 4096, kChunk), set_up_of(0, 0, 4096), set_up_of(0, 0, kChunk, 0),
          set_up_of(0, 0, kChunk, 4), set_up_of(0, 0, kChunk, kReadWrite | std::uint64_t{1} << 63U)}) {
        EXPECT_EQ(dax.session.set_up(1, in), EINVAL);
    }
    EXPECT_EQ(dax.session.remove(RemoveMappingOne{4096, 16384}), EINVAL);
    EXPECT_EQ(dax.session.remove(RemoveMappingOne{0, 4096}), EINVAL);
    EXPECT_EQ(dax.backend->given(), 0U);
    EXPECT_EQ(dax.mapper->call_count(), 0U);
    EXPECT_EQ(dax.session.stats().failed, 8U);
}

TEST(DaxSession, TakesThreeGranulesAndNoOther) {
    for (const auto& [granule, log2] : {std::pair{4096, 12}, std::pair{16384, 14}, std::pair{65536, 16}}) {
        RecordedSession dax(
            {.guest_base = kBase, .window_bytes = kChunk, .granule_bytes = static_cast<std::uint64_t>(granule)});
        EXPECT_EQ(dax.session.map_alignment(), log2);
        EXPECT_EQ(dax.session.set_up(1, set_up_of(0, 0, static_cast<std::uint64_t>(granule))), 0);
    }
    for (const std::uint64_t granule : {std::uint64_t{1}, std::uint64_t{2048}, std::uint64_t{8192}, kChunk}) {
        EXPECT_THROW(RecordedSession({.guest_base = kBase, .window_bytes = kChunk, .granule_bytes = granule}),
                     ArgumentError);
    }
    EXPECT_THROW(RecordedSession({.guest_base = 1, .window_bytes = kChunk}), ArgumentError);
    EXPECT_THROW(RecordedSession({.guest_base = kBase, .window_bytes = 0}), ArgumentError);
    EXPECT_THROW(RecordedSession({.guest_base = kBase, .window_bytes = 4097}), ArgumentError);
}

TEST(DaxSession, GivesTheMapperGuestAddressesAndLeases) {
    RecordedSession dax;
    ASSERT_EQ(dax.session.set_up(2, set_up_of(3 * kChunk, 5 * kChunk, kChunk, kSetupMappingWrite)), 0);
    EXPECT_EQ(dax.backend->last_prot(), kDaxRead | kDaxWrite) << "WRITE implies READ";
    EXPECT_EQ(dax.backend->last_handle(), ~std::uint64_t{0});
    const auto calls = dax.mapper->take_calls();
    ASSERT_EQ(calls.size(), 1U);
    EXPECT_EQ(calls[0].guest_address, kBase + 3 * kChunk);
    EXPECT_EQ(calls[0].lease.offset_bytes, 5 * kChunk);
    EXPECT_EQ(calls[0].length_bytes, kChunk);
    EXPECT_EQ(calls[0].prot, kDaxRead | kDaxWrite);
    ASSERT_EQ(dax.session.set_up(2, set_up_of(0, 0, kChunk)), 0);
    EXPECT_EQ(dax.backend->last_prot(), kDaxRead) << "a read-only mapping opens read-only";
    EXPECT_EQ(dax.session.mapped_ranges(2).size(), 2U);
    EXPECT_TRUE(dax.session.mapped_ranges(1).empty());
    EXPECT_EQ(dax.session.mapping_at(kBase + 4 * kChunk - 1).value_or(DaxMapping{}).window_offset, 3 * kChunk);
    EXPECT_FALSE(dax.session.mapping_at(kBase + 4 * kChunk));
    EXPECT_FALSE(dax.session.mapping_at(kBase - 1));
    EXPECT_EQ(dax.session.stats().mapped_bytes, 2 * kChunk);
}

TEST(DaxSession, AFailedBackendReachesNoMapper) {
    RecordedSession dax;
    EXPECT_EQ(dax.session.set_up(9, set_up_of(0, 0, kChunk)), ENOENT);
    dax.backend->fail_next_map(EACCES);
    EXPECT_EQ(dax.session.set_up(1, set_up_of(0, 0, kChunk)), EACCES);
    dax.backend->fail_next_map(-EACCES);
    EXPECT_EQ(dax.session.set_up(1, set_up_of(0, 0, kChunk)), EIO) << "no errno";
    EXPECT_EQ(dax.mapper->call_count(), 0U);
    EXPECT_EQ(dax.session.active_slot_count(), 0U);
}

TEST(DaxSession, TakesRegularFilesAndMemfdsOnly) {
    RecordedSession dax;
    dax.backend->add(3, UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)));
    EXPECT_EQ(dax.session.set_up(3, set_up_of(0, 0, kChunk)), ENODEV);
    dax.backend->add(4, UniqueFd());
    EXPECT_EQ(dax.session.set_up(4, set_up_of(0, 0, kChunk)), EIO);
    EXPECT_EQ(dax.mapper->call_count(), 0U);
    EXPECT_EQ(dax.backend->out(), 0U) << "the leases went back";
    EXPECT_EQ(dax.backend->given(), 2U);
}

TEST(DaxSession, RemovePunchesAndAHoleIsNoError) {
    RecordedSession dax;
    EXPECT_EQ(dax.session.remove(RemoveMappingOne{0, 64 * kChunk}), 0);
    EXPECT_EQ(dax.mapper->call_count(), 0U);
    ASSERT_EQ(dax.session.set_up(1, set_up_of(0, 0, 4 * kChunk)), 0);
    ASSERT_EQ(dax.session.set_up(2, set_up_of(6 * kChunk, 0, kChunk)), 0);
    static_cast<void>(dax.mapper->take_calls());
    EXPECT_EQ(dax.session.remove(RemoveMappingOne{kChunk, 4096}), 0);
    EXPECT_EQ(dax.session.active_slot_count(), 3U);
    EXPECT_EQ(dax.session.remove(RemoveMappingOne{3 * kChunk, 10 * kChunk}), 0);
    EXPECT_EQ(dax.session.active_slot_count(), 2U);
    const auto calls = dax.mapper->take_calls();
    ASSERT_EQ(calls.size(), 3U);
    EXPECT_EQ(calls[1].guest_address, kBase + 3 * kChunk);
    EXPECT_EQ(calls[1].length_bytes, kChunk) << "only what was mapped";
    EXPECT_EQ(calls[2].length_bytes, kChunk);
    EXPECT_EQ(dax.session.mappings()[1].file_offset, kChunk + 4096);
    EXPECT_EQ(dax.session.stats().holes, 1U);
}

TEST(DaxSession, RemoveForgetsWhateverFails) {
    RecordedSession dax;
    ASSERT_EQ(dax.session.set_up(1, set_up_of(0, 0, kChunk)), 0);
    dax.mapper->fail_unmaps(ENOMEM);
    dax.backend->fail_next_unmap(EIO);
    EXPECT_EQ(dax.session.remove(RemoveMappingOne{0, kChunk}), ENOMEM) << "the mapper's error wins";
    EXPECT_EQ(dax.backend->out(), 0U);
    EXPECT_EQ(dax.session.active_slot_count(), 0U);
    ASSERT_EQ(dax.session.set_up(1, set_up_of(0, 0, kChunk)), 0);
    dax.backend->fail_next_unmap(EIO);
    EXPECT_EQ(dax.session.remove(RemoveMappingOne{0, kChunk}), EIO);
    EXPECT_EQ(dax.session.active_slot_count(), 0U);
}

TEST(DaxSession, ABatchGoesOnAndAnswersTheFirstError) {
    RecordedSession dax;
    for (std::uint64_t i = 0; i < 4; ++i) {
        ASSERT_EQ(dax.session.set_up(1 + i % 2, set_up_of(i * kChunk, 0, kChunk)), 0);
    }
    dax.mapper->fail_unmaps(ENOMEM);
    const auto body = remove_body({{0, kChunk}, {4097, kChunk}, {kChunk, kChunk}, {3 * kChunk, kChunk}, {1, 0}});
    RemoveMappingEntries entries;
    ASSERT_EQ(parse_remove_mapping(body, entries).error, 0);
    EXPECT_EQ(dax.session.remove(entries), ENOMEM);
    EXPECT_EQ(dax.session.active_slot_count(), 1U) << "whichever nodes they were";
    EXPECT_EQ(dax.session.mappings()[0].window_offset, 2 * kChunk);
}

TEST(DaxSession, AReadOnlyWindowRefusesToBeWrittenAndItsMappingsLive) {
    RecordedSession dax({.guest_base = kBase, .window_bytes = 64 * kChunk, .read_only = true});
    EXPECT_EQ(dax.session.set_up(1, set_up_of(0, 0, kChunk)), 0);
    EXPECT_EQ(dax.session.set_up(1, set_up_of(0, 0, kChunk, kReadWrite)), EROFS);
    EXPECT_EQ(dax.session.set_up(1, set_up_of(0, 0, kChunk, kSetupMappingWrite)), EROFS);
    EXPECT_EQ(dax.session.active_slot_count(), 1U);
}

TEST(DaxSession, AQuotaEvictsTheOldestSetUps) {
    RecordedSession dax({.guest_base = kBase, .window_bytes = 64 * kChunk, .quota_bytes = 4 * kChunk});
    for (std::uint64_t i = 0; i < 4; ++i) {
        ASSERT_EQ(dax.session.set_up(1, set_up_of(i * kChunk, 0, kChunk)), 0);
    }
    ASSERT_EQ(dax.session.set_up(1, set_up_of(0, 0, kChunk, kReadWrite)), 0);
    EXPECT_EQ(dax.session.stats().evicted, 0U) << "a replacement needs no more";
    ASSERT_EQ(dax.session.set_up(1, set_up_of(10 * kChunk, 0, 2 * kChunk)), 0);
    const auto mappings = dax.session.mappings();
    ASSERT_EQ(mappings.size(), 3U);
    EXPECT_EQ(mappings[0].window_offset, 0U) << "set up anew since";
    EXPECT_EQ(mappings[1].window_offset, 3 * kChunk);
    EXPECT_EQ(dax.session.stats().evicted, 2U);
    EXPECT_EQ(dax.session.stats().mapped_bytes, 4 * kChunk);
    EXPECT_EQ(dax.session.set_up(1, set_up_of(0, 0, 5 * kChunk)), ENOSPC);
    EXPECT_EQ(dax.session.active_slot_count(), 3U);
    EXPECT_EQ(dax.backend->out(), 3U);
}

TEST(DaxSession, ClientsMakeItRememberSoManyMappingsAndNoMore) {
    RecordedSession dax({.guest_base = kBase, .window_bytes = 64 * kChunk, .most_mappings = 2});
    EXPECT_EQ(dax.session.set_up(1, set_up_of(0, 0, kChunk)), 0);
    EXPECT_EQ(dax.session.set_up(1, set_up_of(kChunk, 0, kChunk)), 0);
    EXPECT_EQ(dax.session.set_up(1, set_up_of(2 * kChunk, 0, kChunk)), ENOSPC);
    EXPECT_EQ(dax.session.set_up(1, set_up_of(kChunk, 0, kChunk, kReadWrite)), 0);
}

TEST(DaxSession, AClosedOneRefusesAndHoldsNothing) {
    RecordedSession dax;
    ASSERT_EQ(dax.session.set_up(1, set_up_of(0, 0, kChunk)), 0);
    EXPECT_EQ(dax.session.close(), 0);
    EXPECT_EQ(dax.backend->out(), 0U);
    EXPECT_EQ(dax.session.set_up(1, set_up_of(0, 0, kChunk)), ENODEV);
    EXPECT_EQ(dax.session.remove(RemoveMappingOne{0, kChunk}), ENODEV);
    EXPECT_EQ(dax.session.reset(), ENODEV);
}

TEST(DaxSession, EventsTellWhatHappenedWhenSomebodyAsks) {
    RecordedSession dax;
    ASSERT_EQ(dax.session.set_up(1, set_up_of(0, 0, kChunk)), 0);
    dax.session.events()->enable(16);
    ASSERT_EQ(dax.session.set_up(1, set_up_of(0, kChunk, kChunk, kReadWrite)), 0);
    EXPECT_EQ(dax.session.set_up(7, set_up_of(kChunk, 0, kChunk)), ENOENT);
    EXPECT_EQ(dax.session.remove(RemoveMappingOne{0, kChunk}), 0);
    EXPECT_EQ(dax.session.reset(), 0);
    const auto events = dax.session.events()->take(100);
    ASSERT_EQ(events.size(), 4U);
    EXPECT_EQ(events[0].kind, DaxEventKind::replace);
    EXPECT_EQ(events[0].guest_address, kBase);
    EXPECT_EQ(events[0].file_offset, kChunk);
    EXPECT_EQ(events[0].prot, kDaxRead | kDaxWrite);
    EXPECT_LE(events[0].t_start_ns, events[0].t_done_ns);
    EXPECT_EQ(events[1].error, ENOENT);
    EXPECT_EQ(events[2].kind, DaxEventKind::remove);
    EXPECT_EQ(events[3].kind, DaxEventKind::reset);
}

TEST(DaxSession, EventsSayWhereAndOfWhichSession) {
    RecordedSession first;
    RecordedSession second;
    EXPECT_GT(second.session.id(), first.session.id());
    second.session.events()->enable(16);
    ASSERT_EQ(second.session.set_up(1, set_up_of(kChunk, 0, kChunk)), 0);
    const auto events = second.session.events()->take(100);
    ASSERT_EQ(events.size(), 1U);
    EXPECT_EQ(events[0].session, second.session.id());
    EXPECT_EQ(events[0].window_offset, kChunk);
    EXPECT_EQ(events[0].guest_address, kBase + kChunk);
}

TEST(DaxSession, EvictsWithAnEventForEachPieceAndNoneForWhatLiesBetween) {
    constexpr std::uint64_t kPage = 4096;
    RecordedSession dax({.guest_base = kBase, .window_bytes = 64 * kChunk, .quota_bytes = 2 * kChunk});
    ASSERT_EQ(dax.session.set_up(1, set_up_of(0, kChunk, kChunk)), 0);
    ASSERT_EQ(dax.session.set_up(1, set_up_of(kPage, 0, kPage)), 0);
    dax.session.events()->enable(16);
    ASSERT_EQ(dax.session.set_up(1, set_up_of(4 * kChunk, 0, 2 * kChunk - kPage)), 0);
    const auto events = dax.session.events()->take(100);
    ASSERT_EQ(events.size(), 3U);
    EXPECT_EQ(events[0].kind, DaxEventKind::evict);
    EXPECT_EQ(events[0].length_bytes, kPage);
    EXPECT_EQ(events[1].kind, DaxEventKind::evict);
    EXPECT_EQ(events[1].window_offset, 2 * kPage);
    EXPECT_EQ(events[1].file_offset, kChunk + 2 * kPage);
    EXPECT_EQ(events[1].length_bytes, kChunk - 2 * kPage);
    EXPECT_EQ(dax.session.stats().evicted, 1U);
}

TEST(DaxSession, EventsOutliveIt) {
    std::shared_ptr<DaxEvents> events;
    {
        const RecordedSession dax;
        events = dax.session.events();
        events->enable(16);
        EXPECT_FALSE(events->ended());
    }
    EXPECT_TRUE(events->ended());
    const auto last = events->take(100);
    ASSERT_EQ(last.size(), 1U);
    EXPECT_EQ(last[0].kind, DaxEventKind::reset);
}

// The order of a session whose backend or mapper is Python: no lock is held while it is called.
TEST(DaxSessionOfPython, LetsTheBackendCallBackForOtherRanges) {
    RecordedSession dax({.guest_base = kBase, .window_bytes = 64 * kChunk}, true);
    std::vector<int> answers;
    dax.backend->on_map([&] {
        answers.push_back(dax.session.set_up(2, set_up_of(8 * kChunk, 0, kChunk)));
        answers.push_back(dax.session.set_up(2, set_up_of(kChunk, 0, 4 * kChunk)));
        answers.push_back(dax.session.remove(RemoveMappingOne{0, kChunk}));
        answers.push_back(dax.session.reset());
        answers.push_back(static_cast<int>(dax.session.active_slot_count()));
    });
    EXPECT_EQ(dax.session.set_up(1, set_up_of(0, 0, 2 * kChunk)), 0);
    EXPECT_EQ(answers, (std::vector<int>{0, EBUSY, EBUSY, EBUSY, 1}));
    EXPECT_EQ(dax.session.active_slot_count(), 2U);
}

TEST(DaxSessionOfPython, OtherThreadsWaitForARangeThatIsWorkedOn) {
    RecordedSession dax({.guest_base = kBase, .window_bytes = 64 * kChunk}, true);
    std::thread other;
    dax.backend->on_map([&] {
        other = std::thread([&] { EXPECT_EQ(dax.session.remove(RemoveMappingOne{0, kChunk}), 0); });
        // Ranges that nobody works on are free meanwhile.
        std::thread([&] { EXPECT_EQ(dax.session.set_up(2, set_up_of(8 * kChunk, 0, kChunk)), 0); }).join();
    });
    EXPECT_EQ(dax.session.set_up(1, set_up_of(0, 0, kChunk)), 0);
    other.join();
    const auto mappings = dax.session.mappings();
    ASSERT_EQ(mappings.size(), 1U) << "the remove came after the set-up";
    EXPECT_EQ(mappings[0].node, 2U);
}

}  // namespace
}  // namespace vmthaw
