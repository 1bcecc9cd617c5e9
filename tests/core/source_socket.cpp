// SocketSource against page servers that behave, stall, lie, die in the middle and come back.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <memory>
#include <thread>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "source/socket/socket_source.hpp"
#include "source_socket_support.hpp"

namespace vmthaw::source_tests {
namespace {

constexpr std::uint64_t kMillisecond_ns = 1'000'000;
constexpr std::uint64_t kMemoryPages = 256;

void serve(const Peer& peer, int /*number*/) {
    PageRequest request;
    while (peer.receive(request)) {
        peer.answer(request);
    }
}

SocketSourceOptions one_connection(std::uint64_t timeout_ms = 20'000) {
    SocketSourceOptions options;
    options.connections = 1;
    options.timeout_ns = timeout_ms * kMillisecond_ns;
    return options;
}

std::string text_of_failure(const SocketSource& source, const ReadResult& result) {
    try {
        throw_read_error(source, kPage, kPage, result);
    } catch (const Error& error) {
        return error.what();
    }
}

void expect_right(SocketSource& source, std::uint64_t offset, std::uint64_t size) {
    std::vector<std::byte> out(size);
    const ReadResult result = source.read(offset, out);
    ASSERT_TRUE(result.ok()) << text_of_failure(source, result);
    ASSERT_EQ(out, bytes_at(offset, size));
}

TEST(SocketSource, ReadsAnyRangeByteForByte) {
    const ScriptedServer server(serve);
    SocketSource source(server.address(), kMemoryPages * kPage - 100);
    for (const auto& [offset, size] : std::vector<std::pair<std::uint64_t, std::uint64_t>>{{0, kPage},
                                                                                           {3 * kPage, 200 * kPage},
                                                                                           {1, 1},
                                                                                           {kPage - 1, 2},
                                                                                           {100, 3 * kPage},
                                                                                           {kPage, kPage + 1},
                                                                                           {7, 0}}) {
        expect_right(source, offset, size);
    }
    std::vector<std::byte> out(kPage);
    EXPECT_EQ(source.read(kMemoryPages * kPage, out).status, ReadStatus::out_of_range);
    EXPECT_EQ(source.read(~std::uint64_t{0} - kPage, out).status, ReadStatus::out_of_range);
    EXPECT_TRUE(source.read((kMemoryPages - 1) * kPage, out).ok()) << "the last page runs over the end";
}

TEST(SocketSource, ManyThreadsShareOneConnection) {
    const ScriptedServer server(serve);
    SocketSource source(server.address(), kMemoryPages * kPage, one_connection());
    std::vector<std::thread> readers;
    for (std::uint64_t number = 0; number < 8; ++number) {
        readers.emplace_back([&source, number] {
            for (std::uint64_t i = 0; i < 100; ++i) {
                expect_right(source, (number * 31 + i * 7) % 200 * kPage, (1 + i % 9) * kPage);
            }
        });
    }
    for (std::thread& reader : readers) {
        reader.join();
    }
    EXPECT_EQ(source.stats().connections, 1U);
    EXPECT_EQ(server.connections(), 1);
}

TEST(SocketSource, ManyRequestsAreOnTheWayAtOnce) {
    const ScriptedServer server([](const Peer& peer, int) {
        std::vector<PageRequest> requests(64);
        for (PageRequest& request : requests) {  // answers none before it has seen all
            if (!peer.receive(request)) {
                return;
            }
        }
        for (const PageRequest& request : requests) {
            peer.answer(request);
        }
        peer.wait();
    });
    SocketSource source(server.address(), kMemoryPages * kPage, one_connection());
    expect_right(source, 0, 64 * kPage);
}

TEST(SocketSource, AWrongEchoIsAProtocolErrorAndTheNextReadIsRight) {
    const ScriptedServer server([](const Peer& peer, int number) {
        PageRequest request;
        while (peer.receive(request)) {
            peer.answer(number == 0 ? PageRequest{request.ipa + kPage, request.page_size} : request, request);
        }
    });
    SocketSource source(server.address(), kMemoryPages * kPage, one_connection());
    std::vector<std::byte> out(kPage);
    const ReadResult result = source.read(kPage, out);
    EXPECT_EQ(result.status, ReadStatus::io_error);
    EXPECT_EQ(result.errno_value, EPROTO);
    const std::string text = text_of_failure(source, result);
    EXPECT_NE(text.find(server.address().text()), std::string::npos) << text;
    EXPECT_NE(text.find("0x2000"), std::string::npos) << text;
    expect_right(source, kPage, kPage);
    EXPECT_EQ(source.stats().lost, 1U);
}

TEST(SocketSource, BytesThatNobodyAskedForAreNeverTakenForAPage) {
    const ScriptedServer server([](const Peer& peer, int number) {
        PageRequest request;
        while (peer.receive(request)) {
            peer.answer(request);
            if (number == 0) {
                peer.send(bytes_at(77 * kPage, 100));
            }
        }
    });
    SocketSource source(server.address(), kMemoryPages * kPage, one_connection());
    expect_right(source, 0, kPage);
    std::vector<std::byte> out(kPage);
    const ReadResult second = source.read(kPage, out);
    EXPECT_EQ(second.errno_value, EPROTO);
    expect_right(source, kPage, kPage);
}

TEST(SocketSource, AStallIsATimeOutAndTheOthersGoOn) {
    const ScriptedServer server([](const Peer& peer, int) {
        PageRequest request;
        while (peer.receive(request)) {
            if (request.ipa == 9 * kPage) {
                peer.wait();  // for ever
                return;
            }
            peer.answer(request);
        }
    });
    SocketSourceOptions options = one_connection(300);
    options.connections = 2;
    SocketSource source(server.address(), kMemoryPages * kPage, options);
    std::vector<std::byte> out(kPage);
    ReadResult stalled;
    std::thread reader([&] { stalled = source.read(9 * kPage, out); });
    for (int i = 0; i < 50; ++i) {
        expect_right(source, 10 * kPage, 3 * kPage);
    }
    reader.join();
    EXPECT_EQ(stalled.errno_value, ETIMEDOUT);
    EXPECT_NE(text_of_failure(source, stalled).find("300 ms"), std::string::npos);
    expect_right(source, kPage, kPage);
}

TEST(SocketSource, AReaderBehindAStalledPageIsAskedForAgain) {
    const ScriptedServer server([](const Peer& peer, int number) {
        PageRequest request;
        while (peer.receive(request)) {
            if (number == 0 && request.ipa == 9 * kPage) {
                peer.wait();
                return;
            }
            peer.answer(request);
        }
    });
    SocketSource source(server.address(), kMemoryPages * kPage, one_connection(1500));
    std::vector<std::byte> out(kPage);
    ReadResult stalled;
    std::thread reader([&] { stalled = source.read(9 * kPage, out); });
    const std::uint64_t give_up_ns = monotonic_ns() + 10 * kSecond_ns;
    while (server.connections() == 0 && monotonic_ns() < give_up_ns) {
        std::this_thread::yield();
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(700));  // so that it is the younger: not for its result
    expect_right(source, kPage, kPage);
    reader.join();
    EXPECT_EQ(stalled.errno_value, ETIMEDOUT);
}

TEST(SocketSource, AServerThatDiesInTheMiddleOfAPageIsAskedAgain) {
    for (const std::size_t cut :
         {std::size_t{0}, std::size_t{1}, std::size_t{16}, std::size_t{1000}, std::size_t{4111}}) {
        const ScriptedServer server([cut](const Peer& peer, int number) {
            PageRequest request;
            for (int answered = 0; peer.receive(request); ++answered) {
                if (number < 3 && answered == 5) {
                    std::vector<std::byte> reply(kPageRequestBytes + kPage);
                    std::ranges::copy(encode(request), reply.begin());
                    std::ranges::copy(bytes_at(request.ipa, kPage), reply.begin() + kPageRequestBytes);
                    peer.send(std::span(reply).first(cut));
                    return;
                }
                peer.answer(request);
            }
        });
        SocketSource source(server.address(), kMemoryPages * kPage, one_connection());
        expect_right(source, kPage, 40 * kPage);
        EXPECT_EQ(source.stats().lost, 3U);
        EXPECT_GT(source.stats().repeated, 0U);
    }
}

TEST(SocketSource, ALinkThatIsCutAndMendedOnlyDelays) {
    const SocketAddress address = fresh_address();
    auto server = std::make_unique<ScriptedServer>(serve, address);
    SocketSource source(address, kMemoryPages * kPage);
    expect_right(source, 0, kPage);
    server.reset();
    std::thread mender([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(100));  // how long the link is cut
        server = std::make_unique<ScriptedServer>(serve, address);
    });
    expect_right(source, kPage, 20 * kPage);
    mender.join();
}

TEST(SocketSource, ALinkThatStaysCutSaysWhatIsWrongWithIt) {
    auto server = std::make_unique<ScriptedServer>(serve);
    SocketSource source(server->address(), kMemoryPages * kPage, one_connection(200));
    server.reset();
    std::vector<std::byte> out(kPage);
    const ReadResult result = source.read(0, out);
    EXPECT_EQ(result.errno_value, ECONNREFUSED);
    EXPECT_NE(text_of_failure(source, result).find("start the server again"), std::string::npos);
}

TEST(SocketSource, APageOverWhichTheServerHangsUpFailsAloneInTheEnd) {
    const ScriptedServer server([](const Peer& peer, int) {
        PageRequest request;
        while (peer.receive(request) && request.ipa != 9 * kPage) {
            peer.answer(request);
        }
    });
    SocketSource source(server.address(), kMemoryPages * kPage, one_connection(300));
    std::vector<std::byte> out(kPage);
    std::atomic<bool> done{false};
    ReadResult bad;
    std::thread reader([&] {
        bad = source.read(9 * kPage, out);
        done.store(true);
    });
    for (int i = 0; i < 20; ++i) {
        expect_right(source, 10 * kPage, kPage);
    }
    reader.join();
    EXPECT_EQ(bad.status, ReadStatus::io_error);
    EXPECT_NE(bad.errno_value, 0);
}

TEST(SocketSource, CloseEndsWaitingReadsAtOnce) {
    std::atomic<int> asked{0};
    const ScriptedServer server([&asked](const Peer& peer, int) {
        PageRequest request;
        while (peer.receive(request)) {  // and answers none
            ++asked;
        }
    });
    SocketSource source(server.address(), kMemoryPages * kPage, one_connection(60'000));
    std::atomic<int> closed{0};
    std::vector<std::thread> readers;
    for (std::uint64_t i = 0; i < 4; ++i) {
        readers.emplace_back([&, i] {
            std::vector<std::byte> out(3 * kPage);
            if (source.read(i * kPage, out).status == ReadStatus::closed) {
                ++closed;
            }
        });
    }
    const std::uint64_t give_up_ns = monotonic_ns() + 20 * kSecond_ns;
    while (asked.load() < 12 && monotonic_ns() < give_up_ns) {
        std::this_thread::yield();
    }
    const std::uint64_t begin_ns = monotonic_ns();
    source.close();
    for (std::thread& reader : readers) {
        reader.join();
    }
    EXPECT_LT(monotonic_ns() - begin_ns, 10 * kSecond_ns);
    EXPECT_EQ(closed.load(), 4);
    EXPECT_EQ(source.still_whole().status, ReadStatus::closed);
}

TEST(SocketSource, NobodyListeningIsAnErrorAtOpenThatNamesTheAddress) {
    const SocketAddress address = fresh_address();
    try {
        const SocketSource source(address, kPage);
        FAIL();
    } catch (const Error& error) {
        EXPECT_EQ(error.class_name(), "SourceOpenError");
        EXPECT_NE(std::string(error.what()).find(address.text()), std::string::npos);
    }
}

TEST(SocketSource, OptionsThatCannotBeRightAreRefused) {
    const ScriptedServer server(serve);
    const auto refused = [&server](std::uint64_t size, auto change) {
        SocketSourceOptions options;
        change(options);
        EXPECT_THROW(SocketSource(server.address(), size, options), ArgumentError);
    };
    refused(0, [](SocketSourceOptions&) {});
    refused(kPage, [](SocketSourceOptions& options) { options.page_size = 5000; });
    refused(kPage, [](SocketSourceOptions& options) { options.page_size = 2048; });
    refused(kPage, [](SocketSourceOptions& options) { options.ram_start = 1; });
    refused(kPage, [](SocketSourceOptions& options) { options.ram_start = ~std::uint64_t{4095}; });
    refused(kPage, [](SocketSourceOptions& options) { options.connections = 0; });
    refused(kPage, [](SocketSourceOptions& options) { options.max_in_flight = 0; });
    refused(kPage, [](SocketSourceOptions& options) { options.timeout_ns = 0; });
}

TEST(SocketSource, IsInertInAForkedChild) {
    const ScriptedServer server(serve);
    SocketSource source(server.address(), kMemoryPages * kPage, one_connection());
    expect_right(source, 0, kPage);
    const pid_t child = ::fork();
    if (child == 0) {
        std::array<std::byte, kPage> out{};
        const bool is_inert = source.read(0, out).status == ReadStatus::closed;
        source.close();
        ::_exit(is_inert ? 0 : 1);
    }
    int status = -1;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
    expect_right(source, kPage, kPage);
}

}  // namespace
}  // namespace vmthaw::source_tests
