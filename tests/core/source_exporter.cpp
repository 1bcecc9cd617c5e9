// PageExporter: served byte for byte to clients that behave, and unharmed by those that do not.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <memory>
#include <thread>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "source/file/file_source.hpp"
#include "source/python/python_source.hpp"
#include "source/python/request_queue.hpp"
#include "source/socket/page_exporter.hpp"
#include "source/socket/socket_source.hpp"
#include "source_socket_support.hpp"

namespace vmthaw::source_tests {
namespace {

constexpr std::uint64_t kPages = 200;

class ExporterTest : public ::testing::Test {
protected:
    void SetUp() override {
        file_.resize(kPages * kPage);
        file_.fill(0, 100 * kPage);  // then a hole
        file_.fill(150 * kPage, 50 * kPage);
        source_ = std::make_shared<FileSource>(file_.path());
    }
    [[nodiscard]] static std::vector<std::byte> expected(std::uint64_t offset, std::uint64_t size) {
        std::vector<std::byte> bytes = bytes_at(offset, size);
        for (std::uint64_t i = 0; i < size; ++i) {
            if (offset + i >= 100 * kPage && offset + i < 150 * kPage) {
                bytes[i] = std::byte{0};
            }
        }
        return bytes;
    }
    static void expect_right(PageSource& source, std::uint64_t offset, std::uint64_t size) {
        std::vector<std::byte> out(size);
        ASSERT_TRUE(source.read(offset, out).ok());
        ASSERT_EQ(out, expected(offset, size));
    }
    static bool eventually(const std::function<bool()>& predicate) {
        const std::uint64_t give_up_ns = monotonic_ns() + 20 * kSecond_ns;
        while (!predicate() && monotonic_ns() < give_up_ns) {
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
        return predicate();
    }
    // A client that speaks the wire by hand; it blocks.
    static UniqueFd connected(const SocketAddress& address) {
        const ResolvedAddress to = address.resolve().front();
        UniqueFd fd(check_errno(::socket(to.family(), SOCK_STREAM | SOCK_CLOEXEC, 0), "socket"));
        check_errno(::connect(fd.get(), to.get(), to.length), "connect");
        const timeval patience{20, 0};
        check_errno(::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience), "setsockopt");
        return fd;
    }
    static void send(const UniqueFd& fd, std::span<const std::byte> bytes) {
        ASSERT_EQ(::send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
    }
    static void send_part(const UniqueFd& fd, const PageRequest& request, std::size_t size) {
        const PageRequestBytes bytes = encode(request);
        send(fd, std::span(bytes).first(size));
    }
    static std::vector<std::byte> receive(const UniqueFd& fd, std::size_t size) {
        std::vector<std::byte> bytes(size);
        const ssize_t got = ::recv(fd.get(), bytes.data(), size, MSG_WAITALL);
        bytes.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
        return bytes;
    }

    TemporaryFile file_;
    std::shared_ptr<FileSource> source_;
};

TEST_F(ExporterTest, EveryByteOverUnixAndTcp) {
    for (const SocketAddress& address :
         {fresh_address(), SocketAddress::parse("tcp:127.0.0.1:0"), SocketAddress::parse("tcp:localhost:0")}) {
        const PageExporter exporter(source_, address);
        SocketSource client(exporter.address(), kPages * kPage);
        expect_right(client, 0, kPages * kPage);
        expect_right(client, 99 * kPage + 5, 2 * kPage);
        EXPECT_TRUE(eventually([&] { return exporter.stats().pages >= kPages; }));
        EXPECT_EQ(exporter.stats().bad_requests, 0U);
    }
}

TEST_F(ExporterTest, LargePagesAreOneReplyEach) {
    const PageExporter exporter(source_, fresh_address());
    SocketSourceOptions options;
    options.page_size = 64 * kPage;
    SocketSource client(exporter.address(), kPages * kPage, options);
    expect_right(client, 0, 128 * kPage);
    EXPECT_TRUE(eventually([&] { return exporter.stats().pages == 2; }));
}

TEST_F(ExporterTest, ClientsOnManyThreadsGetTheirOwnPages) {
    const PageExporter exporter(source_, fresh_address());
    SocketSource client(exporter.address(), kPages * kPage);
    std::vector<std::thread> readers;
    for (std::uint64_t number = 0; number < 6; ++number) {
        readers.emplace_back([&client, number] {
            for (std::uint64_t i = 0; i < 100; ++i) {
                expect_right(client, (number * 37 + i * 11) % 190 * kPage, (1 + i % 10) * kPage);
            }
        });
    }
    for (std::thread& reader : readers) {
        reader.join();
    }
}

TEST_F(ExporterTest, ARequestThatBreaksTheRulesEndsItsConnectionAndNoOther) {
    PageExporterOptions options;
    options.max_page_size = 16 * kPage;
    const PageExporter exporter(source_, fresh_address(), options);
    SocketSource good(exporter.address(), kPages * kPage);
    std::uint64_t refused = 0;
    for (const PageRequest& request : {PageRequest{0, 0},
                                       {0, 5000},
                                       {0, 32 * kPage},
                                       {1, kPage},
                                       {kPages * kPage, kPage},
                                       {~std::uint64_t{0}, kPage}}) {
        const UniqueFd fd = connected(exporter.address());
        send(fd, encode({kPage, kPage}));
        send(fd, encode(request));
        send(fd, encode({0, kPage}));
        EXPECT_EQ(receive(fd, kPageRequestBytes + kPage).size(), kPageRequestBytes + kPage);
        const auto reply = receive(fd, 5000);
        ASSERT_EQ(reply.size(), kPageRequestBytes) << "nothing may follow a refusal";
        EXPECT_EQ(decode(std::span(reply).first<kPageRequestBytes>()), (PageRequest{request.ipa, kRefusedPageSize}));
        EXPECT_EQ(exporter.stats().bad_requests, ++refused);
        expect_right(good, 0, 3 * kPage);
    }
}

TEST_F(ExporterTest, ARequestInSinglesBytesIsAnsweredWhenItIsWhole) {
    const PageExporter exporter(source_, fresh_address());
    const UniqueFd fd = connected(exporter.address());
    for (const std::byte byte : encode({3 * kPage, kPage})) {
        send(fd, {&byte, 1});
    }
    const auto reply = receive(fd, kPageRequestBytes + kPage);
    ASSERT_EQ(reply.size(), kPageRequestBytes + kPage);
    EXPECT_TRUE(std::equal(reply.begin() + kPageRequestBytes, reply.end(), expected(3 * kPage, kPage).begin()));
}

TEST_F(ExporterTest, AClientThatTakesNothingIsDroppedAndHoldsUpNobody) {
    PageExporterOptions options;
    options.send_timeout_ns = 300'000'000;
    const PageExporter exporter(source_, fresh_address(), options);
    const UniqueFd greedy = connected(exporter.address());
    for (std::uint64_t page = 0; page < 100; ++page) {
        send(greedy, encode({page * kPage, kPage}));
    }
    SocketSource client(exporter.address(), kPages * kPage);
    expect_right(client, 0, kPages * kPage);
    EXPECT_TRUE(eventually([&] { return exporter.stats().slow_clients == 1; }));
    EXPECT_TRUE(eventually([&] { return exporter.stats().clients < 3; }));
}

TEST_F(ExporterTest, HalfARequestAndSilenceEndAConnection) {
    PageExporterOptions options;
    options.send_timeout_ns = 100'000'000;
    const PageExporter exporter(source_, fresh_address(), options);
    const UniqueFd fd = connected(exporter.address());
    send_part(fd, {0, kPage}, 7);
    EXPECT_TRUE(receive(fd, 1).empty());
    EXPECT_TRUE(eventually([&] { return exporter.stats().clients == 0; }));
}

TEST_F(ExporterTest, AnIdleClientIsDroppedAndItsSourceNeverNotices) {
    PageExporterOptions options;
    options.idle_timeout_ns = 50'000'000;
    const PageExporter exporter(source_, fresh_address(), options);
    SocketSource client(exporter.address(), kPages * kPage);
    for (int i = 0; i < 3; ++i) {
        ASSERT_TRUE(eventually([&] { return exporter.stats().clients == 0; }));
        expect_right(client, 0, 3 * kPage);
    }
    EXPECT_GE(client.stats().connections, 3U);
}

TEST_F(ExporterTest, MoreClientsThanAllowedAreTurnedAway) {
    PageExporterOptions options;
    options.max_clients = 2;
    const PageExporter exporter(source_, fresh_address(), options);
    const UniqueFd first = connected(exporter.address());
    UniqueFd second = connected(exporter.address());
    ASSERT_TRUE(eventually([&] { return exporter.stats().clients == 2; }));
    const UniqueFd third = connected(exporter.address());
    EXPECT_TRUE(receive(third, 1).empty());
    EXPECT_EQ(exporter.stats().turned_away, 1U);
    second.reset();
    ASSERT_TRUE(eventually([&] { return exporter.stats().clients == 1; }));
    SocketSource client(exporter.address(), kPages * kPage);
    expect_right(client, 0, kPage);
}

TEST_F(ExporterTest, ASourceThatBlocksHoldsUpItsOwnClientAlone) {
    const auto slow = std::make_shared<PythonSource>(kPages * kPage, std::vector<Extent>{}, "slow",
                                                     std::chrono::milliseconds(60'000), 8);
    PageExporter exporter(slow, fresh_address());
    std::atomic<bool> over{false};
    std::atomic<bool> is_stuck{false};
    std::thread answering([&] {
        while (!over.load()) {
            if (const auto request = slow->requests()->next(std::chrono::milliseconds(10))) {
                if (request->offset == 0) {  // never answered
                    is_stuck.store(true);
                } else {
                    slow->requests()->complete(request->id, bytes_at(request->offset, request->size));
                }
            }
        }
    });
    const UniqueFd stuck = connected(exporter.address());
    send(stuck, encode({0, kPage}));
    SocketSource client(exporter.address(), kPages * kPage);
    std::vector<std::byte> out(5 * kPage);
    EXPECT_TRUE(client.read(kPage, out).ok());
    EXPECT_EQ(out, bytes_at(kPage, 5 * kPage));
    EXPECT_TRUE(eventually([&] { return is_stuck.load(); }));
    EXPECT_FALSE(exporter.close(std::chrono::milliseconds(100))) << "a thread is inside the source";
    slow->close();
    over.store(true);
    answering.join();
}

TEST_F(ExporterTest, ASourceThatFailsIsARemoteErrorOfThatPageAlone) {
    file_.resize(50 * kPage);  // cut under the source
    const PageExporter exporter(source_, fresh_address());
    SocketSource client(exporter.address(), kPages * kPage);
    std::vector<std::byte> out(kPage);
    EXPECT_EQ(client.read(60 * kPage, out).errno_value, EREMOTEIO);
    EXPECT_GE(exporter.stats().source_errors, 1U);
    EXPECT_EQ(exporter.stats().bad_requests, 0U);
}

TEST_F(ExporterTest, CloseIsPromptWithIdleBusyAndHalfFinishedClients) {
    PageExporter exporter(source_, fresh_address());
    const UniqueFd idle = connected(exporter.address());
    const UniqueFd half = connected(exporter.address());
    send_part(half, {0, kPage}, 3);
    const UniqueFd full = connected(exporter.address());
    for (std::uint64_t page = 0; page < 100; ++page) {
        send(full, encode({page * kPage, kPage}));
    }
    ASSERT_TRUE(eventually([&] { return exporter.stats().clients == 3; }));
    EXPECT_TRUE(exporter.close(std::chrono::milliseconds(20'000)));
    EXPECT_TRUE(exporter.close());
    EXPECT_TRUE(exporter.closed());
    EXPECT_EQ(exporter.stats().clients, 0U);
    EXPECT_TRUE(receive(idle, 1).empty());
    EXPECT_THROW(connected(exporter.address()), SystemError);
    EXPECT_FALSE(source_->still_whole().status == ReadStatus::closed) << "the source is not the exporter's to close";
}

TEST_F(ExporterTest, TheSocketFileHasItsModeAndGoesWithTheExporter) {
    std::array<char, 32> name{"/tmp/vmthaw-XXXXXX"};
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    const std::string path = std::string(name.data()) + "/s";
    struct stat found{};
    for (const mode_t mode : {mode_t{0600}, mode_t{0666}, mode_t{0660}}) {
        PageExporterOptions options;
        options.mode = mode;
        PageExporter exporter(source_, SocketAddress::parse("unix:" + path), options);
        ASSERT_EQ(::stat(path.c_str(), &found), 0);
        EXPECT_EQ(found.st_mode & 07777U, mode);
        EXPECT_THROW(PageExporter(source_, SocketAddress::parse(path)), SystemError) << "a live socket was stolen";
    }
    EXPECT_NE(::stat(path.c_str(), &found), 0);
    ::rmdir(name.data());
}

TEST_F(ExporterTest, OptionsThatCannotBeRightAreRefused) {
    const auto refused = [this](auto change) {
        PageExporterOptions options;
        change(options);
        EXPECT_THROW(PageExporter(source_, fresh_address(), options), ArgumentError);
    };
    refused([](PageExporterOptions& options) { options.max_page_size = 5000; });
    refused([](PageExporterOptions& options) { options.max_page_size = std::uint64_t{2} << 30U; });
    refused([](PageExporterOptions& options) { options.max_clients = 0; });
    refused([](PageExporterOptions& options) { options.send_timeout_ns = 0; });
    refused([](PageExporterOptions& options) { options.mode = 01777; });
    EXPECT_THROW(PageExporter(nullptr, fresh_address()), ArgumentError);
}

TEST_F(ExporterTest, AForkedChildLeavesItAlone) {
    auto exporter = std::make_unique<PageExporter>(source_, fresh_address());
    SocketSource client(exporter->address(), kPages * kPage);
    expect_right(client, 0, kPage);
    const pid_t child = ::fork();
    if (child == 0) {
        exporter->close();
        exporter.reset();
        ::_exit(0);
    }
    int status = -1;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
    expect_right(client, kPage, kPage);
}

}  // namespace
}  // namespace vmthaw::source_tests
