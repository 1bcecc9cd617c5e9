// How soon a page server that died is asked again.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "source/socket/reconnect_pace.hpp"
#include "source/socket/socket_source.hpp"
#include "source_socket_support.hpp"

namespace vmthaw::source_tests {
namespace {

constexpr std::uint64_t kMs_ns = 1'000'000;

// How many tries, each of which fails at once, fall into the time that a read waits; after `before` that failed.
int tries_within(ReconnectPace pace, std::uint64_t patience_ns, int before) {
    std::uint64_t now_ns = 1;
    for (int i = 0; i < before; ++i) {
        pace.failed(now_ns);
        now_ns = pace.due_ns();
    }
    pace.failed(now_ns);  // the read comes right after it
    int tries = 0;
    for (const std::uint64_t end_ns = now_ns + patience_ns; pace.due_ns() < end_ns; ++tries) {
        now_ns = std::max(now_ns, pace.due_ns());
        pace.failed(now_ns);
    }
    return tries;
}

TEST(ReconnectPace, AReadOutlivesSeveralTriesHoweverManyFailedBeforeAndHoweverSoonItGivesUp) {
    for (const std::uint64_t timeout_ms : {10U, 100U, 500U, 1'000U, 2'000U, 10'000U, 60'000U}) {
        for (const int before : {0, 3, 9, 40}) {
            const int tries = tries_within(ReconnectPace(timeout_ms * kMs_ns), timeout_ms * kMs_ns, before);
            EXPECT_GE(tries, 7) << timeout_ms << " ms, " << before << " before";
            EXPECT_LE(tries, 2 * 60 + 10) << "a server that is away is not asked without pause";
        }
    }
}

TEST(ReconnectPace, GrowsToOneSecondWhereReadsWaitLongEnoughAndBeginsAnewAfterAPage) {
    ReconnectPace pace(60'000 * kMs_ns);
    pace.failed(kMs_ns);
    EXPECT_TRUE(pace.is_due(kMs_ns)) << "the first time at once";
    for (int i = 0; i < 20; ++i) {
        pace.failed(kMs_ns);
    }
    EXPECT_GE(pace.due_ns(), 501 * kMs_ns);
    EXPECT_LE(pace.due_ns(), 1001 * kMs_ns);
    pace.reset();
    pace.failed(kMs_ns);
    EXPECT_TRUE(pace.is_due(kMs_ns));
}

TEST(SocketSource, AServerThatDiesManyTimesInARowOnlyDelaysAReadThatSoonGivesUp) {
    constexpr int kDeaths = 8;
    const ScriptedServer server([](const Peer& peer, int number) {
        PageRequest request;
        while (peer.receive(request) && number >= kDeaths) {
            peer.answer(request);
        }
    });
    SocketSourceOptions options;
    options.connections = 1;
    options.timeout_ns = 800 * kMs_ns;
    SocketSource source(server.address(), 8 * kPage, options);
    std::vector<std::byte> out(2 * kPage);
    ASSERT_TRUE(source.read(kPage, out).ok()) << server.connections() << " connections";
    EXPECT_EQ(out, bytes_at(kPage, out.size()));
    EXPECT_EQ(source.stats().lost, static_cast<std::uint64_t>(kDeaths));
}

}  // namespace
}  // namespace vmthaw::source_tests
