// The interval map alone, with enough pieces for many leaves, against a plain array.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "dax/window_map.hpp"

namespace vmthaw {
namespace {

constexpr std::uint64_t kCells = 3000;

struct MapAndCells {
    WindowMap map;
    std::vector<const HeldLease*> cells = std::vector<const HeldLease*>(kCells);
    std::uint64_t dead = 0;
    std::uint64_t born = 0;

    void carve(std::uint64_t start, std::uint64_t length) {
        WindowMap::Spares spares;
        map.take_spares(spares);
        std::unique_ptr<HeldLease> gone;
        map.carve({start, length}, spares, gone);
        for (; gone; gone = std::move(gone->next_dead)) {
            EXPECT_EQ(gone->pieces, 0U);
            ++dead;
        }
        map.give_back(spares);
        std::fill_n(cells.begin() + static_cast<std::ptrdiff_t>(start), length, nullptr);
    }
    void insert(std::uint64_t start, std::uint64_t length) {
        carve(start, length);
        WindowMap::Spares spares;
        map.take_spares(spares);
        auto held = std::make_unique<HeldLease>();
        const HeldLease* const mine = held.get();
        map.insert({start, length}, std::move(held), spares);
        map.give_back(spares);
        ++born;
        std::fill_n(cells.begin() + static_cast<std::ptrdiff_t>(start), length, mine);
    }
    void check() const {
        std::vector<const HeldLease*> found(kCells);
        std::uint64_t bytes = 0;
        std::uint64_t end = 0;
        for (const auto& one : map.list()) {
            ASSERT_GE(one.range.start, end);
            end = one.range.end();
            ASSERT_LE(end, kCells);
            std::fill_n(found.begin() + static_cast<std::ptrdiff_t>(one.range.start), one.range.length, one.held);
            bytes += one.range.length;
        }
        ASSERT_EQ(found, cells);
        ASSERT_EQ(map.mapped_bytes(), bytes);
        ASSERT_EQ(map.list().size(), map.size());
    }
    void check_at(std::uint64_t start, std::uint64_t length) const {
        std::uint64_t bytes = 0;
        const HeldLease* first = nullptr;
        for (std::uint64_t i = start; i < start + length; ++i) {
            bytes += cells[i] != nullptr ? 1 : 0;
            first = first != nullptr ? first : cells[i];
        }
        const auto found = map.find_first({start, length});
        ASSERT_EQ(found ? found->held : nullptr, first);
        ASSERT_EQ(map.bytes_in({start, length}), bytes);
        ASSERT_EQ(map.is_hole({start, length}), bytes == 0);
        const auto piece = map.piece_at(start);
        ASSERT_EQ(piece ? piece->held : nullptr, cells[start]);
        ASSERT_EQ(map.is_exact({start, length}), piece && piece->range.start == start && piece->range.length == length);
    }
};

TEST(DaxWindowMap, IsWhatAnArrayOfItsCellsIs) {
    std::mt19937 random(static_cast<unsigned>(::testing::UnitTest::GetInstance()->random_seed()));
    MapAndCells both;
    for (int i = 0; i < 30'000; ++i) {
        const std::uint64_t start = random() % kCells;
        // Mostly small, so that there are hundreds of pieces; at times so large that whole leaves go.
        const std::uint64_t most = random() % 512 == 0 ? kCells - start : std::min<std::uint64_t>(kCells - start, 3);
        const std::uint64_t length = 1 + random() % most;
        random() % 3 == 0 ? both.carve(start, length) : both.insert(start, length);
        ASSERT_NO_FATAL_FAILURE(both.check_at(random() % (kCells - 8), 1 + random() % 8));
        if (i % 64 == 0) {
            ASSERT_NO_FATAL_FAILURE(both.check()) << "step " << i;
        }
    }
    both.carve(0, kCells);
    EXPECT_EQ(both.map.size(), 0U);
    EXPECT_EQ(both.dead, both.born) << "every lease went once";
}

TEST(DaxWindowMap, HoldsPiecesInAnyOrderOfComing) {
    for (const std::uint64_t stride : {std::uint64_t{1}, kCells - 1, std::uint64_t{7}}) {
        MapAndCells both;
        for (std::uint64_t i = 0; i < kCells; ++i) {
            both.insert(i * stride % kCells, 1);
        }
        EXPECT_EQ(both.map.size(), kCells);
        ASSERT_NO_FATAL_FAILURE(both.check());
        for (std::uint64_t i = 0; i < kCells; i += 2) {
            both.carve(i * stride % kCells, 1);
        }
        ASSERT_NO_FATAL_FAILURE(both.check());
    }
}

TEST(DaxWindowMap, SparesOfSeveralRequestsAreRoomForAllOfThem) {
    WindowMap map;
    std::vector<WindowMap::Spares> spares(64);
    for (auto& one : spares) {
        map.take_spares(one);
    }
    for (std::uint64_t i = 0; i < 64; ++i) {
        for (std::uint64_t j = 0; j < 2; ++j) {
            map.insert({i * 64 + j * 32, 1}, std::make_unique<HeldLease>(), spares[i]);
        }
        map.give_back(spares[i]);
    }
    EXPECT_EQ(map.size(), 128U);
}

}  // namespace
}  // namespace vmthaw
