// A source that is cut between the copying of a page's bytes and the page's installation.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <memory>

#include "pager/guest_run.hpp"
#include "pager_support.hpp"

namespace vmthaw::pager_tests {
namespace {

// Has its bytes at hand, and is cut just after those of the page at `cut_at` were copied, the zeros of the cut in them.
class CutJustNow final : public PageSource {
public:
    CutJustNow(std::uint64_t pages, std::uint64_t cut_at) : size_(pages * kPage), cut_at_(cut_at) {}

    [[nodiscard]] std::uint64_t size() const noexcept override { return size_; }
    [[nodiscard]] bool covers(std::uint64_t offset, std::uint64_t bytes) const noexcept override {
        return offset <= size_ && bytes <= size_ - offset;
    }
    [[nodiscard]] Extent extent_at(std::uint64_t offset, std::uint64_t limit) const noexcept override {
        return {offset, limit, ExtentKind::data};
    }
    [[nodiscard]] bool read_now(std::uint64_t offset, std::span<std::byte> out) noexcept override {
        if (is_cut_) {
            return false;
        }
        std::fill(out.begin(), out.end(), std::byte{7});
        if (offset == cut_at_) {
            std::fill(out.begin() + 1000, out.end(), std::byte{0});
            is_cut_ = true;
        }
        return true;
    }
    [[nodiscard]] ReadResult read(std::uint64_t /*offset*/, std::span<std::byte> /*out*/) noexcept override {
        return still_whole();
    }
    [[nodiscard]] ReadResult still_whole() const noexcept override {
        return is_cut_ ? ReadResult{.status = ReadStatus::short_read, .got_bytes = cut_at_ + 1000} : ReadResult{};
    }
    [[nodiscard]] bool is_closed() const noexcept override { return false; }
    [[nodiscard]] std::vector<Extent> extents() const override { return {{0, size_, ExtentKind::data}}; }
    [[nodiscard]] std::string description() const override { return "cut just now"; }
    [[nodiscard]] bool is_cut() const noexcept { return is_cut_; }

private:
    std::uint64_t size_;
    std::uint64_t cut_at_;
    std::atomic<bool> is_cut_{false};
};

TEST(PagerCutSource, NoGuestSeesTheZerosOfACutThatCameWhileThePageWasCopied) {
    VMTHAW_NEEDS_USERFAULTFD();
    Guest guest(4);
    PagerConfig config = quick_config();
    config.retries = 0;
    config.fill_mode = FillMode::page;
    config.failure_policy = FailurePolicy::poison;
    const auto session = guest.serve(std::make_shared<CutJustNow>(4, 2 * kPage), config);
    for (const std::uint64_t page : {0U, 1U}) {
        EXPECT_EQ(guest.word(page, 511), 0x0707'0707'0707'0707U);
    }
    EXPECT_NE(::madvise(guest.page(2), kPage, MADV_POPULATE_READ), 0) << "it was found whole a moment ago";
    EXPECT_TRUE(eventually([&] { return !session->failures().empty(); }));
    session->drain(1'000'000);
    EXPECT_TRUE(session->wait_closed(std::chrono::seconds(20)));
}

TEST(PagerCutSource, AWorkingSetEndsBeforeThePageThatWasCutWhileItWasCopied) {
    VMTHAW_NEEDS_USERFAULTFD();
    Guest guest(4);
    const auto source = std::make_shared<CutJustNow>(4, 2 * kPage);
    const std::uint64_t start = guest.regions().front().guest_address;
    const auto session =
        PagerSession::create({.userfaultfd = guest.clone(),
                              .regions = guest.regions(),
                              .source = source,
                              .config = quick_config(),
                              .pid_fd = {},
                              .socket = {},
                              .label = "test",
                              .prewarm = {},
                              .page_states = {},
                              .working_set = make_guest_runs({{start, kPage}, {start + 2 * kPage, kPage}})},
                             nullptr);
    session->start();
    EXPECT_TRUE(eventually([&] { return source->is_cut(); }));
    session->drain(1'000'000);
    EXPECT_TRUE(session->wait_closed(std::chrono::seconds(20)));
    EXPECT_EQ(session->counters().prefetched, 1U);
}

}  // namespace
}  // namespace vmthaw::pager_tests
