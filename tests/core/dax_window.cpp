// The window in process: its bytes are the file's.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <map>
#include <random>
#include <vector>

#include "base/page.hpp"
#include "dax/guarded_copy.hpp"
#include "dax/window_mapper.hpp"
#include "dax_support.hpp"

namespace vmthaw {
namespace {

struct WindowSession {
    explicit WindowSession(std::uint64_t bytes = 8 * kChunk)
        : mapper(std::make_shared<WindowMapper>(kBase, bytes)),
          session(backend, mapper, {.guest_base = kBase, .window_bytes = bytes}) {}

    // The byte there, or a negative errno.
    [[nodiscard]] int at(std::uint64_t offset) const {
        std::byte byte{};
        const int error = mapper->read(kBase + offset, {&byte, 1});
        return error != 0 ? -error : std::to_integer<int>(byte);
    }
    [[nodiscard]] int put(std::uint64_t offset, int value) const {
        const auto byte = static_cast<std::byte>(value);
        return mapper->write(kBase + offset, {&byte, 1});
    }

    std::shared_ptr<LedgerBackend> backend = std::make_shared<LedgerBackend>();
    std::shared_ptr<WindowMapper> mapper;
    DaxSession session;
};

void put_file(int fd, std::uint64_t offset, int value) {
    const auto byte = static_cast<std::byte>(value);
    ASSERT_EQ(::pwrite(fd, &byte, 1, static_cast<off_t>(offset)), 1);
}

int file_byte(int fd, std::uint64_t offset) {
    std::byte byte{};
    return ::pread(fd, &byte, 1, static_cast<off_t>(offset)) == 1 ? std::to_integer<int>(byte) : -1;
}

TEST(DaxWindow, ShowsTheFileAndTakesWritesToIt) {
    WindowSession dax;
    const int fd = dax.backend->add(1, 3 * kChunk);
    put_file(fd, kChunk + 5, 0x42);
    EXPECT_EQ(dax.at(0), -EFAULT) << "a hole";
    ASSERT_EQ(dax.session.set_up(1, set_up_of(0, kChunk, kChunk)), 0);
    EXPECT_EQ(dax.at(5), 0x42);
    EXPECT_EQ(dax.put(5, 1), EFAULT) << "read-only";
    ASSERT_EQ(dax.session.set_up(1, set_up_of(0, kChunk, kChunk, kReadWrite)), 0);
    EXPECT_EQ(dax.put(6, 0x43), 0);
    EXPECT_EQ(file_byte(fd, kChunk + 6), 0x43);
    put_file(fd, kChunk + 7, 0x44);
    EXPECT_EQ(dax.at(7), 0x44) << "host writes are seen at once";
    ASSERT_EQ(dax.session.remove(RemoveMappingOne{0, kChunk}), 0);
    EXPECT_EQ(dax.at(5), -EFAULT);
}

TEST(DaxWindow, IsReadWithoutASignalWhereTheKernelsCopyIsRefused) {
    WindowSession dax;
    const int fd = dax.backend->add(1, 3 * kPageBytes);
    put_file(fd, kPageBytes - 1, 0x51);
    ASSERT_EQ(dax.session.set_up(1, set_up_of(0, 0, kChunk, kReadWrite)), 0);
    std::byte* const place = dax.mapper->host_at(kBase, 1);
    std::vector<std::byte> bytes(3 * kPageBytes);
    EXPECT_EQ(guarded_read_by_pipe(place, bytes), 0);
    EXPECT_EQ(std::to_integer<int>(bytes[kPageBytes - 1]), 0x51);
    bytes[2 * kPageBytes + 7] = std::byte{0x52};
    EXPECT_EQ(guarded_write_by_pipe(place, bytes), 0);
    EXPECT_EQ(file_byte(fd, 2 * kPageBytes + 7), 0x52);
    EXPECT_EQ(guarded_read_by_pipe(place + 3 * kPageBytes, bytes), EFAULT) << "past the end";
    EXPECT_EQ(guarded_write_by_pipe(place + 3 * kPageBytes, bytes), EFAULT);
    EXPECT_EQ(guarded_read_by_pipe(place + kChunk, bytes), EFAULT) << "a hole";
}

TEST(DaxWindow, IsAlignedForHugePagesAndBounded) {
    const WindowMapper window(kBase, 3 * kPageBytes);
    EXPECT_EQ(window.host_address() % (2U << 20U), 0U);
    EXPECT_EQ(window.host_at(kBase + 1, 3 * kPageBytes), nullptr);
    EXPECT_EQ(window.host_at(kBase - 1, 1), nullptr);
    EXPECT_EQ(window.host_at(kBase + 1, ~std::uint64_t{0}), nullptr);
    EXPECT_NE(window.host_at(kBase + 1, 3 * kPageBytes - 1), nullptr);
    std::array<std::byte, 2> bytes{};
    EXPECT_EQ(window.read(kBase + 3 * kPageBytes - 1, bytes), EINVAL);
    EXPECT_THROW(WindowMapper(kBase, 0), ArgumentError);
    EXPECT_THROW(WindowMapper(kBase, 4097), ArgumentError);
    EXPECT_THROW(WindowMapper(kBase, ~std::uint64_t{4095}), ArgumentError);
}

TEST(DaxWindow, AFileThatIsNoMultipleOfTheChunkEndsWithItsLastPage) {
    WindowSession dax;
    const int fd = dax.backend->add(1, kChunk + 3 * kPageBytes + 100);
    put_file(fd, kChunk + 3 * kPageBytes + 99, 7);
    ASSERT_EQ(dax.session.set_up(1, set_up_of(0, kChunk, kChunk)), 0) << "Linux maps past the end";
    EXPECT_EQ(dax.at(3 * kPageBytes + 99), 7);
    EXPECT_EQ(dax.at(3 * kPageBytes + 100), 0) << "the rest of the page";
    EXPECT_EQ(dax.at(4 * kPageBytes), -EFAULT);
    ASSERT_EQ(::ftruncate(fd, 2 * kChunk), 0);
    EXPECT_EQ(dax.at(4 * kPageBytes), 0) << "as the file grows";
}

TEST(DaxWindow, ATruncatedFileHarmsNobodyElse) {
    WindowSession dax;
    const int fd = dax.backend->add(1, kChunk);
    const int other = dax.backend->add(2, kChunk);
    put_file(other, 0, 9);
    ASSERT_EQ(dax.session.set_up(1, set_up_of(0, 0, kChunk, kReadWrite)), 0);
    ASSERT_EQ(dax.session.set_up(2, set_up_of(kChunk, 0, kChunk)), 0);
    EXPECT_EQ(dax.put(kPageBytes, 1), 0);
    EXPECT_TRUE(dax.session.past_end().empty());
    ASSERT_EQ(::ftruncate(fd, 0), 0);
    EXPECT_EQ(dax.at(kPageBytes), -EFAULT);
    EXPECT_EQ(dax.put(kPageBytes, 1), EFAULT);
    EXPECT_EQ(dax.at(kChunk), 9);
    const auto past_end = dax.session.past_end();
    ASSERT_EQ(past_end.size(), 1U);
    EXPECT_EQ(past_end[0].node, 1U);
    EXPECT_EQ(dax.session.set_up(2, set_up_of(0, 0, kChunk)), 0);
    EXPECT_EQ(dax.at(0), 9);
}

// Kernels before 6.12 have unmapped the old file when a sealed memfd refuses.
TEST(DaxWindow, TheOldMappingSurvivesAnUpgradeThatTheFileRefuses) {
    WindowSession dax;
    UniqueFd fd = memory_file(kChunk);
    put_file(fd.get(), 0, 5);
    ASSERT_EQ(::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_WRITE), 0);
    dax.backend->add(1, std::move(fd));
    ASSERT_EQ(dax.session.set_up(1, set_up_of(0, 0, kChunk)), 0);
    EXPECT_EQ(dax.session.set_up(1, set_up_of(0, 0, kChunk, kReadWrite)), EPERM);
    EXPECT_EQ(dax.at(0), 5);
    EXPECT_EQ(dax.backend->out(), 1U);
    EXPECT_EQ(dax.session.stats().lost, 0U);
}

// The same, as such a kernel leaves it: with addresses that are nobody's.
TEST(DaxWindow, WhatAFailedMapTookAwayIsReservedAgainAndRestored) {
    WindowMapper window(kBase, kChunk);
    UniqueFd fd = memory_file(kChunk);
    put_file(fd.get(), 0, 5);
    ASSERT_EQ(::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_WRITE), 0);
    const Lease lease{fd.get(), 0, kChunk, 0};
    std::byte* const place = window.host_at(kBase, kChunk);
    ASSERT_EQ(window.map(kBase, lease, kDaxRead), 0);
    ASSERT_EQ(::munmap(place, kChunk), 0);
    EXPECT_EQ(window.map(kBase, lease, kDaxRead | kDaxWrite), EPERM);
    // Linux gives the address that is asked for if it is free.
    void* const other = ::mmap(place, kChunk, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT_NE(other, static_cast<void*>(place)) << "nobody else's mapping may come there";
    ::munmap(other, kChunk);
    std::byte byte{};
    EXPECT_EQ(window.read(kBase, {&byte, 1}), EFAULT);
    EXPECT_EQ(window.restore(kBase, lease, kDaxRead), 0);
    EXPECT_EQ(window.read(kBase, {&byte, 1}), 0);
    EXPECT_EQ(byte, std::byte{5});
}

TEST(DaxWindow, ItsBytesAreTheFilesAfterAnyRequests) {
    constexpr std::uint64_t kPages = 48;
    constexpr std::uint64_t kFilePages = 64;
    constexpr std::uint64_t kSteps = 4000;
    WindowSession dax(kPages * kPageBytes);
    std::map<std::uint64_t, std::vector<int>> files;  // the first byte of each page
    std::map<std::uint64_t, int> fds;
    for (const std::uint64_t node : {1U, 2U}) {
        fds[node] = dax.backend->add(node, kFilePages * kPageBytes);
        for (std::uint64_t page = 0; page < kFilePages; ++page) {
            files[node].push_back(static_cast<int>((page * 3 + node * 100) % 251));
            put_file(fds[node], page * kPageBytes, files[node].back());
        }
    }
    struct Page {
        std::uint64_t node = 0;
        std::uint64_t page = 0;
        bool writes = false;
    };
    std::vector<Page> window(kPages);
    std::mt19937 random(static_cast<unsigned>(::testing::UnitTest::GetInstance()->random_seed()));
    for (std::uint64_t step = 0; step < kSteps; ++step) {
        const std::uint64_t first = random() % kPages;
        const std::uint64_t count = 1 + random() % (kPages - first);
        switch (random() % 4) {
            case 0: {
                const std::uint64_t node = 1 + random() % 2;
                const std::uint64_t from = random() % (kFilePages - count + 1);
                const bool writes = random() % 2 == 0;
                ASSERT_EQ(dax.session.set_up(node, set_up_of(first * kPageBytes, from * kPageBytes, count * kPageBytes,
                                                             writes ? kReadWrite : kSetupMappingRead)),
                          0);
                for (std::uint64_t i = 0; i < count; ++i) {
                    window[first + i] = {node, from + i, writes};
                }
                break;
            }
            case 1:
                ASSERT_EQ(dax.session.remove(RemoveMappingOne{first * kPageBytes, count * kPageBytes}), 0);
                std::fill_n(window.begin() + static_cast<std::ptrdiff_t>(first), count, Page{});
                break;
            case 2: {  // the guest writes
                const Page& page = window[first];
                const int value = static_cast<int>(random() % 251);
                ASSERT_EQ(dax.put(first * kPageBytes, value), page.writes ? 0 : EFAULT);
                if (page.writes) {
                    files[page.node][page.page] = value;
                }
                break;
            }
            default: {  // the host writes
                const std::uint64_t node = 1 + random() % 2;
                const std::uint64_t page = random() % kFilePages;
                files[node][page] = static_cast<int>(random() % 251);
                put_file(fds[node], page * kPageBytes, files[node][page]);
            }
        }
        for (std::uint64_t i = 0; i < kPages; i += 1 + random() % 4) {
            const Page& page = window[i];
            ASSERT_EQ(dax.at(i * kPageBytes), page.node == 0 ? -EFAULT : files[page.node][page.page])
                << "page " << i << " after step " << step;
        }
    }
    for (const auto& [node, bytes] : files) {
        for (std::uint64_t page = 0; page < kFilePages; ++page) {
            ASSERT_EQ(file_byte(fds[node], page * kPageBytes), bytes[page]);
        }
    }
}

}  // namespace
}  // namespace vmthaw
