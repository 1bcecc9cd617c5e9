#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <vector>

#include "pager/pager.hpp"
#include "source_support.hpp"

namespace vmthaw {
namespace {

using source_tests::byte_at;

// Bytes of the pattern; the first `failures` reads fail.
class PatternSource final : public PageSource {
public:
    explicit PatternSource(std::uint64_t size, int failures = 0, ReadResult failure = {ReadStatus::io_error, EIO, 0})
        : size_(size), failures_(failures), failure_(failure) {}
    [[nodiscard]] std::uint64_t size() const noexcept override { return size_; }
    [[nodiscard]] bool covers(std::uint64_t offset, std::uint64_t size) const noexcept override {
        return offset <= size_ && size <= size_ - offset;
    }
    [[nodiscard]] Extent extent_at(std::uint64_t offset, std::uint64_t limit) const noexcept override {
        return {offset, limit, ExtentKind::data};
    }
    [[nodiscard]] ReadResult read(std::uint64_t offset, std::span<std::byte> out) noexcept override {
        ++reads;
        if (failures_.fetch_sub(1) > 0) {
            return failure_;
        }
        if (!covers(offset, out.size())) {
            return {ReadStatus::out_of_range, 0, 0};
        }
        for (std::size_t i = 0; i < out.size(); ++i) {
            out[i] = byte_at(offset + i);
        }
        return {};
    }
    [[nodiscard]] std::vector<Extent> extents() const override { return {{0, size_, ExtentKind::data}}; }
    [[nodiscard]] std::string description() const override { return "pattern"; }

    std::atomic<int> reads{0};

private:
    std::uint64_t size_;
    std::atomic<int> failures_;
    ReadResult failure_;
};

PagerConfig quick() {
    PagerConfig config;
    config.retry_min_ns = 1'000;
    config.retry_max_ns = 2'000;
    return config;
}

// Guest memory from page 3 to 10 (of 4 KiB), host somewhere else, source from page 2 on.
std::vector<Region> one_region() {
    return {
        {0x7000'0000, 3 * source_tests::kPage, 7 * source_tests::kPage, 2 * source_tests::kPage, source_tests::kPage}};
}

void expect_pattern(const std::vector<std::byte>& page, std::size_t from, std::size_t to, std::uint64_t offset) {
    for (std::size_t i = 0; i < page.size(); ++i) {
        const std::byte expected = i >= from && i < to ? byte_at(offset + i - from) : std::byte{0};
        ASSERT_EQ(page[i], expected) << "byte " << i;
    }
}

TEST(PagerServeFault, GivesThePageThatHoldsTheAddress) {
    Pager pager(one_region(), std::make_shared<PatternSource>(64 * source_tests::kPage), quick());
    std::vector<std::byte> page(source_tests::kPage, std::byte{0xEE});
    pager.serve_fault(5 * source_tests::kPage + 123, page);
    expect_pattern(page, 0, source_tests::kPage, 4 * source_tests::kPage);
    EXPECT_EQ(pager.counters().faults, 1U);
    EXPECT_EQ(pager.counters().source_bytes, source_tests::kPage);
}

TEST(PagerServeFault, ServesPagesOf16KiBAcrossBothEndsOfARegion) {
    Pager pager(one_region(), std::make_shared<PatternSource>(64 * source_tests::kPage), quick());
    std::vector<std::byte> page(4 * source_tests::kPage, std::byte{0xEE});
    pager.serve_fault(3 * source_tests::kPage + 1, page);  // the page of 16 KiB begins at 0, the region at 3 pages
    expect_pattern(page, 3 * source_tests::kPage, 4 * source_tests::kPage, 2 * source_tests::kPage);
    pager.serve_fault(6 * source_tests::kPage, page);
    expect_pattern(page, 0, 4 * source_tests::kPage, 3 * source_tests::kPage);
    pager.serve_fault(9 * source_tests::kPage, page);  // the region ends at 10 pages
    expect_pattern(page, 0, 2 * source_tests::kPage, 7 * source_tests::kPage);
    EXPECT_EQ(pager.counters().source_bytes, 7 * source_tests::kPage);
}

TEST(PagerServeFault, RefusesAddressesInNoRegionAndNamesThem) {
    Pager pager(one_region(), std::make_shared<PatternSource>(64 * source_tests::kPage), quick());
    std::vector<std::byte> page(source_tests::kPage);
    for (const std::uint64_t address :
         {std::uint64_t{0}, 3 * source_tests::kPage - 1, 10 * source_tests::kPage, ~std::uint64_t{0}}) {
        EXPECT_FALSE(pager.contains(address));
        try {
            pager.serve_fault(address, page);
            ADD_FAILURE() << address;
        } catch (const Error& error) {
            EXPECT_EQ(error.class_name(), "OutOfRegionError");
            EXPECT_EQ(std::get<std::uint64_t>(error.fields().at(0).second), address);
        }
    }
    EXPECT_EQ(pager.counters().failed, 4U);
    EXPECT_EQ(pager.counters().faults, 4U);
    EXPECT_TRUE(pager.contains(3 * source_tests::kPage));
    EXPECT_TRUE(pager.contains(10 * source_tests::kPage - 1));
}

TEST(PagerServeFault, RefusesPageSizesThatAreNoPowerOfTwo) {
    Pager pager(one_region(), std::make_shared<PatternSource>(64 * source_tests::kPage), quick());
    std::vector<std::byte> page(3 * source_tests::kPage);
    EXPECT_THROW(pager.serve_fault(5 * source_tests::kPage, page), ArgumentError);
    EXPECT_THROW(pager.serve_fault(5 * source_tests::kPage, {}), ArgumentError);
}

TEST(PagerServeFault, RetriesAFailingSourceAsConfigured) {
    const auto source = std::make_shared<PatternSource>(64 * source_tests::kPage, 3);
    Pager pager(one_region(), source, quick());
    std::vector<std::byte> page(source_tests::kPage);
    pager.serve_fault(5 * source_tests::kPage, page);
    expect_pattern(page, 0, source_tests::kPage, 4 * source_tests::kPage);
    EXPECT_EQ(source->reads, 4);
    EXPECT_EQ(pager.counters().retried, 3U);
    EXPECT_EQ(pager.counters().failed, 0U);
}

TEST(PagerServeFault, RaisesWhatTheSourceSaysWhenTriesAreUsedUp) {
    const auto source = std::make_shared<PatternSource>(64 * source_tests::kPage, 100);
    Pager pager(one_region(), source, quick());
    std::vector<std::byte> page(source_tests::kPage);
    try {
        pager.serve_fault(5 * source_tests::kPage, page);
        ADD_FAILURE();
    } catch (const Error& error) {
        EXPECT_EQ(error.class_name(), "SourceIoError");
    }
    EXPECT_EQ(source->reads, 4);
    EXPECT_EQ(pager.counters().failed, 1U);
}

TEST(PagerServeFault, DoesNotRetryAShortRead) {
    const auto source =
        std::make_shared<PatternSource>(64 * source_tests::kPage, 100, ReadResult{ReadStatus::short_read, 0, 7});
    Pager pager(one_region(), source, quick());
    std::vector<std::byte> page(source_tests::kPage);
    try {
        pager.serve_fault(5 * source_tests::kPage, page);
        ADD_FAILURE();
    } catch (const Error& error) {
        EXPECT_EQ(error.class_name(), "ShortReadError");
    }
    EXPECT_EQ(source->reads, 1);
}

}  // namespace
}  // namespace vmthaw
