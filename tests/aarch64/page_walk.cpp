// The page-table walk against the processor itself: a guest turns its MMU on over tables of ours and asks the processor
// (AT) for addresses; the walk, from that vCPU's registers and that guest's memory, must say the same.
#include <algorithm>
#include <array>
#include <string>

#include "live_guest.hpp"
#include "machine/capture_full.hpp"
#include "machine/capture_registers.hpp"
#include "machine/core_dump.hpp"
#include "testing/splitmix.hpp"
#include "translation_tables.hpp"
#include "vcpu/page_walk.hpp"

namespace vmthaw {
namespace {

constexpr std::uint64_t kNormalMemory = ~std::uint64_t{0};  // all of MAIR_EL1: write-back
constexpr std::uint64_t kTopByteIgnored = std::uint64_t{3} << 37U;
constexpr std::uint64_t kLimitsOfTablesIgnored = std::uint64_t{3} << 41U;
constexpr std::uint64_t kUpperWalksDisabled = 1U << 23U;
constexpr std::uint64_t kLeaf = kAccessed | kShared | kNeverExecuted;
constexpr std::uint64_t kValue = 0x1122334455667788;

struct Regime {
    const char* name;
    unsigned page_shift;
    unsigned lower_bits, upper_bits;
    std::uint64_t tcr_extra = 0;

    [[nodiscard]] std::uint64_t tcr() const {
        constexpr std::uint64_t kBits40 = 2;        // of output addresses
        constexpr std::uint64_t kCacheable = 0x35;  // IRGN, ORGN: write-back; inner shareable
        const std::uint64_t lower = page_shift == 12 ? 0 : page_shift == 16 ? 1 : 2;
        const std::uint64_t upper = page_shift == 12 ? 2 : page_shift == 16 ? 3 : 1;
        return (64 - lower_bits) | kCacheable << 8U | lower << 14U | std::uint64_t{64 - upper_bits} << 16U |
               kCacheable << 24U | upper << 30U | kBits40 << 32U | tcr_extra;
    }
    [[nodiscard]] std::uint64_t upper_start() const { return ~std::uint64_t{0} << upper_bits; }
};

struct Answers {
    std::uint64_t kernel_reads, kernel_writes, user_reads, user_writes;  // PAR_EL1
};

std::string expected(const WalkResult& result, std::uint64_t address, bool writes, bool user) {
    constexpr std::uint64_t kIn4KiB = 0xFFF;
    if (const auto* const failure = std::get_if<WalkFailure>(&result)) {
        switch (failure->reason) {
            case WalkFailureReason::not_canonical:
            case WalkFailureReason::walks_disabled:
                return "no translation at level 0";
            case WalkFailureReason::address_size:
                return "address too large at level " + std::to_string(failure->level);
            case WalkFailureReason::not_present:
            case WalkFailureReason::reserved_bits:
                return "no translation at level " + std::to_string(failure->level);
            default:
                return failure->describe();
        }
    }
    const auto& found = std::get<PageTranslation>(result);
    if (found.guest_physical % found.page_bytes != address % found.page_bytes) {
        return "not the same byte of its page";
    }
    if (!found.accessed) {
        return "not accessed";
    }
    if ((writes && !found.permissions.writable) || (user && !found.permissions.user)) {
        return "not permitted";
    }
    return "at " + hex(found.guest_physical & ~kIn4KiB);
}

std::string said(std::uint64_t answer) {
    if ((answer & 1U) == 0) {
        return "at " + hex(answer & 0x000F'FFFF'FFFF'F000);
    }
    const std::string level = std::to_string(answer >> 1U & 3U);
    if ((answer >> 9U & 1U) != 0) {
        return "a fault of stage 2";
    }
    switch (answer >> 3U & 15U) {
        case 0:
            return "address too large at level " + level;
        case 1:
            return "no translation at level " + level;
        case 2:
            return "not accessed";
        case 3:
            return "not permitted";
        default:
            return "fault " + hex(answer);
    }
}

class PageWalk : public OnKvm, public ::testing::WithParamInterface<Regime> {
protected:
    void SetUp() override {
        OnKvm::SetUp();
        if (IsSkipped()) {
            return;
        }
        guest_.emplace();
        guest_->load(guests::asks_for_addresses());
        const std::uint64_t features = guest_->get(kRegisterMmfr0);
        const bool is_there = regime().page_shift == 12   ? (features >> 28U & 15U) != 15
                              : regime().page_shift == 16 ? (features >> 24U & 15U) != 15
                                                          : (features >> 20U & 15U) != 0;
        if (!is_there) {
            GTEST_SKIP() << "the processor has no such granule";
        }
        space_.emplace(kTables, kTablesEnd);
        lower_.emplace(guest_->memory(), *space_, regime().page_shift, regime().lower_bits);
        upper_.emplace(guest_->memory(), *space_, regime().page_shift, regime().upper_bits);
        for (std::uint64_t at = kRam; at < kRam + kRamBytes; at += page_bytes()) {
            lower_->put(at, 3, at | kPage | kAccessed | kShared);
        }
    }
    [[nodiscard]] static const Regime& regime() { return GetParam(); }
    [[nodiscard]] static std::uint64_t page_bytes() { return std::uint64_t{1} << regime().page_shift; }
    // Lets the processor answer. The guest ends with a store of kValue at `stored`.
    std::vector<Answers> ask(std::uint64_t upper_root, std::uint64_t stored) {
        guest_->write(kQuestions, addresses_);
        guest_->set(general_register(0), lower_->root());
        guest_->set(general_register(1), upper_root);
        guest_->set(general_register(2), regime().tcr());
        guest_->set(general_register(3), kNormalMemory);
        guest_->set(general_register(4), kQuestions);
        guest_->set(general_register(5), addresses_.size());
        guest_->set(general_register(6), kAnswers);
        guest_->set(general_register(10), stored);
        guest_->set(general_register(11), kValue);
        {
            SerialBuses serial;
            LiveRun run(*guest_, serial.buses);
            const RunEnd end = run.wait();
            const auto* const event = std::get_if<SystemEventExit>(&end.exit.payload);
            EXPECT_TRUE(event != nullptr && event->type == kKvmSystemEventShutdown)
                << end.exit.describe() << ", ESR_EL1 " << hex(guest_->get(kRegisterEsr));
        }
        std::vector<Answers> answers(addresses_.size());
        guest_->memory().read(kAnswers, std::as_writable_bytes(std::span(answers)));
        return answers;
    }
    void expect_the_same(std::uint64_t upper_root, std::uint64_t stored) {
        const std::vector<Answers> answers = ask(upper_root, stored);
        const FullRegisters all = capture_full(guest_->kvm(), guest_->vcpu());
        const PagingState state = all.paging_state();
        EXPECT_TRUE(state.is_mmu_on);
        const ReadPhysical read = physical_reader(guest_->memory());
        for (std::size_t i = 0; i < addresses_.size(); ++i) {
            const std::uint64_t address = addresses_.at(i);
            const WalkResult result = translate(state, read, address);
            const std::string where = hex(address);
            const auto* const failure = std::get_if<WalkFailure>(&result);
            if (failure != nullptr && failure->reason == WalkFailureReason::reserved_bits && failure->level < 3) {
                continue;  // QEMU's processor takes blocks at levels where the architecture has none
            }
            found_ += std::holds_alternative<PageTranslation>(result) ? 1U : 0U;
            EXPECT_EQ(expected(result, address, false, false), said(answers.at(i).kernel_reads)) << where;
            EXPECT_EQ(expected(result, address, true, false), said(answers.at(i).kernel_writes)) << where;
            EXPECT_EQ(expected(result, address, false, true), said(answers.at(i).user_reads)) << where;
            EXPECT_EQ(expected(result, address, true, true), said(answers.at(i).user_writes)) << where;
        }
        // The five registers of a snapshot lead to the same places.
        const auto snapshot = capture_registers(guest_->vcpu());
        const PagingState of_snapshot = PagingState::of_aarch64(snapshot.value());
        std::uint64_t value = 0;
        const auto failure =
            read_guest_virtual(of_snapshot, read, stored, std::as_writable_bytes(std::span(&value, 1)));
        EXPECT_FALSE(failure.has_value()) << failure->describe();
        EXPECT_EQ(value, kValue);
    }

    std::optional<LiveGuest> guest_;
    std::optional<TableSpace> space_;
    std::optional<TranslationTables> lower_, upper_;
    std::vector<std::uint64_t> addresses_;
    std::size_t found_ = 0;
};

TEST_P(PageWalk, SaysWhatTheProcessorSaysOfEveryKindOfEntry) {
    const std::uint64_t start = regime().upper_start();
    const std::uint64_t frame = kData;
    const std::uint64_t beyond = std::uint64_t{1} << 41U;  // of 40 bits
    const std::array<std::uint64_t, 10> pages{frame | kPage | kLeaf,
                                              frame | kPage | kLeaf | kReadOnly,
                                              frame | kPage | kLeaf | kUser,
                                              frame | kPage | kLeaf | kUser | kReadOnly,
                                              frame | kPage | kShared,
                                              frame | kPage | kLeaf | kReadOnly | kDirtyBitModifier,
                                              0,
                                              frame | kBlock | kLeaf,  // of no meaning at the last level
                                              frame | beyond | kPage | kLeaf,
                                              frame | kPage | kAccessed | kUser};
    for (std::size_t i = 0; i < pages.size(); ++i) {
        upper_->put(start + i * page_bytes(), 3, pages.at(i));
        addresses_.push_back(start + i * page_bytes());
        addresses_.push_back(start + i * page_bytes() + page_bytes() - 8);
    }
    const auto add = [&](std::uint64_t address, int level, std::uint64_t descriptor, std::uint64_t limits = 0) {
        upper_->put(address, level, descriptor, limits);
        addresses_.push_back(address);
        addresses_.push_back(address + 0x1238);
    };
    const unsigned second = upper_->shift(2);
    const std::uint64_t block = std::uint64_t{1} << second;
    add(start + 2 * block, 2, 5 * block | kBlock | kLeaf);
    add(start + 3 * block, 2, 6 * block | kBlock | kLeaf | kReadOnly | kUser);
    add(start + 4 * block, 2, 7 * block | kBlock | kShared);
    add(start + 5 * block, 2, beyond | kBlock | kLeaf);
    addresses_.push_back(start + 3 * block - 8);
    add(start + 40 * block, 3, frame | kPage | kLeaf | kUser, kTableReadOnly);
    add(start + 41 * block, 3, frame | kPage | kLeaf | kUser, kTableNotUser);
    add(start + 42 * block, 3, frame | kPage | kLeaf | kUser, kTableReadOnly | kTableNotUser);
    const std::uint64_t first = std::uint64_t{1} << upper_->shift(1);
    if (regime().upper_bits > upper_->shift(1)) {
        add(start + 3 * first, 1, first | kBlock | kLeaf);  // a page of 1 GiB, or nothing with larger granules
    }
    add(start + (std::uint64_t{1} << (regime().upper_bits - 1)), upper_->first_level(), first | kBlock | kLeaf);
    // What no table has, what no table could have, and addresses with tags.
    const std::uint64_t tag = std::uint64_t{0xAB} << 56U;
    for (const std::uint64_t address :
         {start + 100 * block, ~std::uint64_t{7}, start - 8, std::uint64_t{1} << regime().lower_bits,
          std::uint64_t{1} << 48U, std::uint64_t{0}, kRam, kRam + kRamBytes - 8, kRam + kRamBytes, kRam | tag,
          (start & ~(std::uint64_t{0xFF} << 56U)) | tag, std::uint64_t{1} << 55U, (start ^ tag) + page_bytes()}) {
        addresses_.push_back(address);
    }
    const bool is_upper_there = (regime().tcr_extra & kUpperWalksDisabled) == 0;
    expect_the_same(upper_->root(), is_upper_there ? start + 0x20 : kData + 0x20);
    EXPECT_GT(found_, is_upper_there ? 20U : 1U);
    const MappedRanges mapped = mapped_ranges(capture_full(guest_->kvm(), guest_->vcpu()).paging_state(),
                                              physical_reader(guest_->memory()), 1000);
    EXPECT_TRUE(mapped.is_complete);
    EXPECT_TRUE(std::ranges::any_of(mapped.ranges, [](const MappedRange& range) {
        return range.address == kRam && range.guest_physical == kRam && range.size_bytes == kRamBytes;
    }));
}

TEST_P(PageWalk, SaysWhatTheProcessorSaysOfTablesAtRandom) {
    constexpr std::uint64_t kContiguous = std::uint64_t{1} << 52U;  // wrong where its neighbours lack it
    constexpr std::uint64_t kAnything = 0xFFFC'0000'0000'0FFF & ~kContiguous;
    constexpr std::size_t kAddresses = 800;
    testing::SplitMix random(regime().page_shift + regime().tcr_extra);
    std::array<std::uint64_t, 4> tables{};
    std::ranges::generate(tables, [&] { return space_->take(page_bytes()); });
    for (const std::uint64_t table : tables) {
        std::vector<std::uint64_t> entries(page_bytes() / 8);
        for (std::uint64_t& entry : entries) {
            entry = (random.next() & kAnything) | tables.at(random.below(tables.size()));
            entry |= random.below(4) != 0 ? kTable : 0;  // or few walks would go deep
        }
        guest_->write(table, entries);
    }
    const std::uint64_t start = regime().upper_start();
    for (std::size_t i = 0; i < kAddresses; ++i) {
        addresses_.push_back(start | random.next());
    }
    expect_the_same(tables.front(), kData + 0x40);
    EXPECT_TRUE(found_ > kAddresses / 20 || (regime().tcr_extra & kUpperWalksDisabled) != 0) << found_;
}

INSTANTIATE_TEST_SUITE_P(Granules, PageWalk,
                         ::testing::Values(Regime{"Of4KiB", 12, 39, 48}, Regime{"Of16KiB", 14, 47, 48},
                                           Regime{"Of64KiB", 16, 42, 48}, Regime{"Of4KiBIn39Bits", 12, 36, 39},
                                           Regime{"Of64KiBIn42Bits", 16, 48, 42},
                                           Regime{"Of4KiBWithTags", 12, 39, 48, kTopByteIgnored},
                                           Regime{"Of4KiBWithoutTableLimits", 12, 39, 48, kLimitsOfTablesIgnored},
                                           Regime{"Of4KiBWithoutUpperWalks", 12, 39, 48, kUpperWalksDisabled}),
                         [](const auto& one) { return std::string(one.param.name); });

}  // namespace
}  // namespace vmthaw
