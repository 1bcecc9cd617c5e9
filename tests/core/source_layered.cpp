#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <memory>
#include <random>
#include <semaphore>
#include <string>
#include <thread>
#include <vector>

#include "allocation_counter.hpp"
#include "base/error.hpp"
#include "source/compressed/zstd_frame.hpp"
#include "source/file/file_source.hpp"
#include "source/layered/layered_source.hpp"
#include "source_support.hpp"

namespace vmthaw::source_tests {
namespace {

using Bytes = std::vector<std::byte>;

Uuid uuid_of(std::uint8_t number) {
    Uuid uuid;
    uuid.bytes.fill(static_cast<std::byte>(number));
    return uuid;
}

void write(const TemporaryFile& file, const Bytes& bytes) {
    if (::pwrite(file.fd(), bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
        throw SystemError(errno, "pwrite");
    }
}

// Random runs over `pages` pages of three builds and nil (the last UUID); storage anywhere in 4096 pages.
LayeredHeader random_header(std::uint32_t seed, std::uint64_t pages) {
    std::mt19937_64 random(seed);
    LayeredHeader header;
    header.size = pages * kPage - random() % kPage;
    header.uuids = {uuid_of(1), uuid_of(2), uuid_of(3), Uuid{}};
    for (std::uint64_t page = 0; page < pages;) {
        const std::uint64_t wanted = random() % 16 == 0 ? pages / 2 : 1 + random() % 9;
        const std::uint64_t length = std::min(wanted, pages - page);
        const auto build = static_cast<std::uint32_t>(random() % 4);
        const std::uint64_t storage = random() % 3 == 0 ? page : random() % 4096;
        header.mappings.push_back({page * kPage, length * kPage, build == 3 ? 0 : storage * kPage, build});
        page += length;
    }
    check_layered_header(header);
    return header;
}

TEST(LayeredMap, FindsWhatAScanOfTheMappingsFindsByTableAndBySearch) {
    const std::vector<std::uint32_t> layers{0, 1, 2, LayeredMap::kZeros};
    for (std::uint32_t seed = 0; seed < 20; ++seed) {
        const LayeredHeader header = random_header(seed, 40 + seed * 13);
        const LayeredMap table(header, layers, LayeredMap::Kind::table);
        const LayeredMap search(header, layers, LayeredMap::Kind::search);
        ASSERT_TRUE(table.has_table());
        ASSERT_FALSE(search.has_table());
        std::mt19937_64 random(seed);
        for (int i = 0; i < 2000; ++i) {
            const std::uint64_t offset = random() % header.size;
            const std::uint64_t limit = 1 + random() % (20 * kPage);
            const auto mapping = std::find_if(header.mappings.begin(), header.mappings.end(),
                                              [&](const auto& one) { return offset - one.offset < one.length; });
            const std::uint32_t layer = layers[mapping->build];
            const std::uint64_t storage = layer == LayeredMap::kZeros ? 0 : mapping->storage + offset - mapping->offset;
            const std::uint64_t least =
                std::min({limit, mapping->offset + mapping->length - offset, header.size - offset});
            for (const LayeredMap* map : {&table, &search}) {
                const LayeredMap::Place place = map->at(offset, limit);
                ASSERT_EQ(place.layer, layer);
                ASSERT_EQ(place.storage, storage);
                ASSERT_GE(place.size, least);
                ASSERT_LE(place.size, std::min(limit, header.size - offset));
                ASSERT_EQ(place.size, table.at(offset, limit).size);
            }
        }
    }
}

TEST(LayeredMap, IsNoTableWhereRunsAreFewOrBlocksSmall) {
    LayeredHeader header;
    header.block_size = 512;
    header.version = 3;
    header.size = 1024;
    header.uuids = {uuid_of(1)};
    header.mappings = {{0, 512, 512, 0}, {512, 512, 0, 0}};
    EXPECT_FALSE(LayeredMap(header, std::vector<std::uint32_t>{0}, LayeredMap::Kind::table).has_table());
    EXPECT_FALSE(LayeredMap(random_header(1, 50), std::vector<std::uint32_t>{0, 1, 2, 3}).has_table());
}

// Four pages in frames of one, all compressed, in a file.
class Compressed : public ::testing::Test {
protected:
    void SetUp() override {
        Bytes packed;
        LayeredBuild build;
        build.uuid = uuid_of(1);
        build.codec = FrameCodec::zstd;
        for (std::uint64_t page = 0; page < kPages; ++page) {
            const Bytes frame = zstd_compress(bytes_at(page * kPage, kPage), 3);
            build.frames.push_back({page * kPage, packed.size(), kPage, static_cast<std::uint32_t>(frame.size())});
            packed.insert(packed.end(), frame.begin(), frame.end());
        }
        write(file_, packed);
        header_.size = kPages * kPage;
        header_.uuids = {uuid_of(1)};
        header_.mappings = {{0, kPages * kPage, 0, 0}};
        header_.builds = {build};
    }
    std::unique_ptr<LayeredSource> open(std::size_t cache_bytes) {
        return std::make_unique<LayeredSource>(
            header_, LayeredSource::Builds{{uuid_of(1), std::make_shared<FileSource>(file_.path())}}, cache_bytes);
    }

    static constexpr std::uint64_t kPages = 16;
    TemporaryFile file_;
    LayeredHeader header_;
};

TEST_F(Compressed, ThreadsThatReadAtRandomAllSeeTheirBytesWithAnyCache) {
    for (const std::size_t cache_bytes : {std::size_t{0}, std::size_t{3 * kPage}, std::size_t{1} << 20U}) {
        const auto source = open(cache_bytes);
        std::atomic<int> wrong{0};
        std::vector<std::thread> threads;
        for (std::uint32_t number = 0; number < 4; ++number) {
            threads.emplace_back([&, number] {
                std::mt19937 random(number);
                Bytes out(2 * kPage);
                for (int i = 0; i < 300; ++i) {
                    const std::uint64_t offset = random() % ((kPages - 2) * kPage);
                    const bool was_there = source->read_now(offset / kPage * kPage, std::span(out).first(kPage));
                    wrong += was_there && !std::equal(out.begin(), out.begin() + kPage,
                                                      bytes_at(offset / kPage * kPage, kPage).begin());
                    wrong += !source->read(offset, out).ok() || out != bytes_at(offset, out.size());
                }
            });
        }
        for (std::thread& thread : threads) {
            thread.join();
        }
        EXPECT_EQ(wrong, 0);
        EXPECT_LE(source->frames().held_bytes(), std::max(cache_bytes, 2 * kPage));
    }
}

TEST_F(Compressed, AFrameThatIsAtHandIsGivenToTheFaultThreadAndNoOther) {
    const auto source = open(1 << 20);
    Bytes out(kPage);
    EXPECT_FALSE(source->ready(kPage, kPage));
    EXPECT_EQ(source->mapped(kPage, kPage), nullptr);
    EXPECT_FALSE(source->read_now(kPage, out));
    ASSERT_TRUE(source->read(kPage, out).ok());
    EXPECT_TRUE(source->read_now(kPage, out));
    EXPECT_EQ(out, bytes_at(kPage, kPage));
    EXPECT_FALSE(source->read_now(2 * kPage, out));
    source->close();
    EXPECT_FALSE(source->read_now(kPage, out));
    EXPECT_EQ(source->read(kPage, out).status, ReadStatus::closed);
}

TEST_F(Compressed, TheFaultPathAllocatesNothing) {
    header_.uuids.push_back(uuid_of(2));
    header_.size += 2 * kPage;
    header_.mappings.push_back({kPages * kPage, 2 * kPage, 0, 1});
    TemporaryFile plain;
    plain.fill(0, 2 * kPage);
    LayeredSource source(header_, {{uuid_of(1), std::make_shared<FileSource>(file_.path())},
                                   {uuid_of(2), std::make_shared<FileSource>(plain.path())}});
    Bytes out(kPage);
    ASSERT_TRUE(source.read(0, out).ok());
    const std::uint64_t before = allocations_of_this_thread();
    for (std::uint64_t offset = 0; offset < header_.size; offset += kPage) {
        (void)source.extent_at(offset, 64 * kPage);
        (void)source.mapped(offset, kPage);
        (void)source.ready(offset, kPage);
        (void)source.read_now(offset, out);
        (void)source.still_whole();
        (void)source.tier(offset);
    }
    EXPECT_EQ(allocations_of_this_thread() - before, 0U);
}

// A build whose reads wait until they are let go, and then fail or do not.
class HeldBuild final : public PageSource {
public:
    explicit HeldBuild(const std::string& path) : file_(path) {}
    [[nodiscard]] std::uint64_t size() const noexcept override { return file_.size(); }
    [[nodiscard]] bool covers(std::uint64_t offset, std::uint64_t bytes) const noexcept override {
        return file_.covers(offset, bytes);
    }
    [[nodiscard]] Extent extent_at(std::uint64_t offset, std::uint64_t limit) const noexcept override {
        return file_.extent_at(offset, limit);
    }
    [[nodiscard]] ReadResult read(std::uint64_t offset, std::span<std::byte> out) noexcept override {
        begun.release();
        go.acquire();
        return fails ? ReadResult{.status = ReadStatus::io_error, .errno_value = EIO} : file_.read(offset, out);
    }
    [[nodiscard]] std::vector<Extent> extents() const override { return file_.extents(); }
    [[nodiscard]] std::string description() const override { return "held"; }

    std::counting_semaphore<> begun{0};
    std::counting_semaphore<> go{0};
    std::atomic<bool> fails{false};

private:
    FileSource file_;
};

// Of two threads that want one frame, one reads it and the other waits.
class HeldFrame : public Compressed {
protected:
    void SetUp() override {
        Compressed::SetUp();
        build_ = std::make_shared<HeldBuild>(file_.path());
        source_ = std::make_unique<LayeredSource>(header_, LayeredSource::Builds{{uuid_of(1), build_}});
    }
    ReadResult read() {
        Bytes out(kPage);
        return source_->read(0, out);
    }
    void read_in_two_threads() {
        reader_ = std::thread([this] { read_ = read(); });
        build_->begun.acquire();
        waiter_ = std::thread([this] { waited_ = read(); });
        while (source_->frames().stats().joins == 0) {
            std::this_thread::yield();
        }
    }

    std::shared_ptr<HeldBuild> build_;
    std::unique_ptr<LayeredSource> source_;
    std::thread reader_;
    std::thread waiter_;
    ReadResult read_;
    ReadResult waited_;
};

TEST_F(HeldFrame, ThatFailsFailsForAllWhoWaitedAndIsTriedAnewForTheNext) {
    read_in_two_threads();
    build_->fails = true;
    build_->go.release();
    reader_.join();
    waiter_.join();
    EXPECT_EQ(read_.errno_value, EIO);
    EXPECT_EQ(waited_.errno_value, EIO);
    build_->fails = false;
    build_->go.release();
    EXPECT_TRUE(read().ok());
}

TEST_F(HeldFrame, LetsGoOfWhoWaitsWhenTheSourceIsClosedAlthoughTheBuildNeverAnswers) {
    read_in_two_threads();
    source_->close();
    waiter_.join();
    EXPECT_EQ(waited_.status, ReadStatus::closed);
    build_->go.release();
    reader_.join();
    EXPECT_EQ(read().status, ReadStatus::closed);
}

TEST(LayeredSource, RefusesABuildThatDoesNotBeginAtZero) {
    TemporaryFile file;
    file.fill(0, kPage);
    LayeredHeader header;
    header.size = kPage;
    header.uuids = {uuid_of(1)};
    header.mappings = {{0, kPage, 0, 0}};
    const auto late = std::make_shared<FileSource>(file.path(), kPage);
    EXPECT_THROW(LayeredSource(header, {{uuid_of(1), late}}), Error);
    EXPECT_THROW(LayeredSource(header, {}), Error);
}

TEST(LayeredSource, AsksOnlyTheBuildThatAPageLiesInWhetherItWasCutAndOnceAMillisecond) {
    constexpr std::uint64_t kMillisecondNs = 1'000'000;
    constexpr std::uint64_t kNow = 50 * kMillisecondNs;
    TemporaryFile whole;
    TemporaryFile cut;
    whole.fill(0, kPage);
    cut.fill(0, kPage);
    LayeredHeader header;
    header.size = 3 * kPage;
    header.uuids = {uuid_of(1), uuid_of(2), Uuid{}};
    header.mappings = {{0, kPage, 0, 0}, {kPage, kPage, 0, 1}, {2 * kPage, kPage, 0, 2}};
    LayeredSource source(header, {{uuid_of(1), std::make_shared<FileSource>(whole.path())},
                                  {uuid_of(2), std::make_shared<FileSource>(cut.path())}});
    EXPECT_TRUE(source.whole_lately(kPage, kNow).ok());
    cut.resize(100);
    EXPECT_TRUE(source.whole_lately(0, kNow + 2 * kMillisecondNs).ok());
    EXPECT_TRUE(source.whole_lately(2 * kPage, kNow + 2 * kMillisecondNs).ok());
    EXPECT_TRUE(source.whole_lately(kPage, kNow + kMillisecondNs - 1).ok()) << "it was asked a moment ago";
    EXPECT_EQ(source.whole_lately(kPage, kNow + kMillisecondNs).status, ReadStatus::short_read);
    EXPECT_EQ(source.whole_lately(kPage, kNow + kMillisecondNs + 1).status, ReadStatus::short_read)
        << "a file that was cut is not taken for whole a moment later";
    EXPECT_EQ(source.whole_lately(3 * kPage, kNow).status, ReadStatus::out_of_range);
    source.close();
    EXPECT_EQ(source.whole_lately(0, kNow).status, ReadStatus::closed);
}

TEST(LayeredSource, CopiesFromTheBuildsOwnMapping) {
    TemporaryFile file;
    file.fill(0, 4 * kPage);
    LayeredHeader header;
    header.size = 2 * kPage;
    header.uuids = {uuid_of(1)};
    header.mappings = {{0, kPage, 3 * kPage, 0}, {kPage, kPage, 0, 0}};
    const auto build = std::make_shared<FileSource>(file.path());
    LayeredSource source(header, {{uuid_of(1), build}});
    EXPECT_EQ(source.mapped(0, kPage), build->mapped(3 * kPage, kPage));
    EXPECT_EQ(source.mapped(kPage, kPage), build->mapped(0, kPage));
    EXPECT_EQ(source.mapped(0, 2 * kPage), nullptr);  // its neighbour lies elsewhere
    Bytes out(2 * kPage);
    ASSERT_TRUE(source.read(0, out).ok());
    EXPECT_TRUE(std::equal(out.begin(), out.begin() + kPage, bytes_at(3 * kPage, kPage).begin()));
    EXPECT_TRUE(std::equal(out.begin() + kPage, out.end(), bytes_at(0, kPage).begin()));
}

}  // namespace
}  // namespace vmthaw::source_tests
