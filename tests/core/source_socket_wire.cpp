// squib's wire on both sides, without sockets: what is asked, where replies belong, what a hostile peer can do.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "source/socket/page_request_reader.hpp"
#include "source/socket/reply_pipeline.hpp"
#include "source/socket/socket_address.hpp"
#include "source_support.hpp"

namespace vmthaw::source_tests {
namespace {

std::vector<PageRequest> requests_in(std::span<const std::byte> bytes) {
    std::vector<PageRequest> result;
    for (; bytes.size() >= kPageRequestBytes; bytes = bytes.subspan(kPageRequestBytes)) {
        result.push_back(decode(bytes.first<kPageRequestBytes>()));
    }
    return result;
}

std::vector<PageRequest> sent_by(ReplyPipeline& pipeline) {
    const auto bytes = pipeline.to_send();
    auto result = requests_in(bytes);
    pipeline.sent(bytes.size());
    return result;
}

std::vector<std::byte> reply_to(const PageRequest& request) {
    const PageRequestBytes header = encode(request);
    std::vector<std::byte> reply(header.begin(), header.end());
    const auto page = bytes_at(request.ipa, request.page_size);
    reply.insert(reply.end(), page.begin(), page.end());
    return reply;
}

// Gives the peer's bytes to the pipeline as a socket would, `step` at a time.
ReplyVerdict feed(ReplyPipeline& pipeline, std::span<const std::byte> bytes, std::size_t step) {
    while (!bytes.empty()) {
        std::size_t given = 0;
        for (const iovec& target : pipeline.targets()) {
            const std::size_t part = std::min({target.iov_len, bytes.size() - given, step - given});
            std::memcpy(target.iov_base, bytes.data() + given, part);
            given += part;
        }
        if (given == 0) {
            return ReplyVerdict::good;  // it asked for no more
        }
        bytes = bytes.subspan(given);
        if (const ReplyVerdict verdict = pipeline.received(given); verdict != ReplyVerdict::good) {
            return verdict;
        }
    }
    return ReplyVerdict::good;
}

struct Asked {
    Asked(std::uint64_t ipa, std::uint64_t size) : out(size), read(ipa, out, 0) {}
    std::vector<std::byte> out;
    PageRead read;
};

TEST(PageWire, IsLittleEndianWhateverTheHostIs) {
    const PageRequestBytes bytes = encode({0x1122334455667788, 0x1000});
    EXPECT_EQ(bytes[0], std::byte{0x88});
    EXPECT_EQ(bytes[7], std::byte{0x11});
    EXPECT_EQ(bytes[9], std::byte{0x10});
    EXPECT_EQ(decode(bytes), (PageRequest{0x1122334455667788, 0x1000}));
}

TEST(ReplyPipeline, OnePageIsOneRequestAndManyAreManyInFlight) {
    ReplyPipeline pipeline(kPage, 8);
    Asked one(5 * kPage, kPage);
    Asked many(16 * kPage, 3 * kPage);
    pipeline.add(one.read);
    pipeline.add(many.read);
    EXPECT_EQ(
        sent_by(pipeline),
        (std::vector<PageRequest>{{5 * kPage, kPage}, {16 * kPage, kPage}, {17 * kPage, kPage}, {18 * kPage, kPage}}));
    EXPECT_EQ(pipeline.in_flight(), 4U);
}

TEST(ReplyPipeline, APageLargerThanItsAlignmentIsAskedInSmallerOnes) {
    ReplyPipeline pipeline(16 * kPage, 8);
    Asked odd(12 * kPage, 24 * kPage);
    pipeline.add(odd.read);
    EXPECT_EQ(sent_by(pipeline),
              (std::vector<PageRequest>{{12 * kPage, 4 * kPage}, {16 * kPage, 16 * kPage}, {32 * kPage, 4 * kPage}}));
}

TEST(ReplyPipeline, NoMoreIsInFlightThanAllowed) {
    ReplyPipeline pipeline(kPage, 4);
    Asked many(0, 16 * kPage);
    pipeline.add(many.read);
    const auto first = sent_by(pipeline);
    EXPECT_EQ(first.size(), 4U);
    EXPECT_TRUE(pipeline.to_send().empty());
    EXPECT_EQ(feed(pipeline, reply_to(first[0]), 5000), ReplyVerdict::good);
    EXPECT_EQ(sent_by(pipeline), (std::vector<PageRequest>{{4 * kPage, kPage}}));
}

TEST(ReplyPipeline, RepliesInAnyPiecesBecomeTheReadersBytes) {
    for (const std::size_t step : {std::size_t{1}, std::size_t{15}, std::size_t{4111}, std::size_t{100'000}}) {
        ReplyPipeline pipeline(kPage, 32);
        Asked first(0, 4 * kPage);
        Asked second(64 * kPage, 2 * kPage);
        pipeline.add(first.read);
        pipeline.add(second.read);
        std::vector<std::byte> stream;
        for (const PageRequest& request : sent_by(pipeline)) {
            const auto reply = reply_to(request);
            stream.insert(stream.end(), reply.begin(), reply.end());
        }
        EXPECT_EQ(feed(pipeline, stream, step), ReplyVerdict::good);
        EXPECT_TRUE(first.read.done && first.read.result.ok());
        EXPECT_TRUE(second.read.done && second.read.result.ok());
        EXPECT_EQ(first.out, bytes_at(0, 4 * kPage));
        EXPECT_EQ(second.out, bytes_at(64 * kPage, 2 * kPage));
        EXPECT_EQ(pipeline.first(), nullptr);
    }
}

TEST(ReplyPipeline, AWrongEchoIsNamedAndFinishesNothing) {
    ReplyPipeline pipeline(kPage, 8);
    Asked asked(kPage, kPage);
    pipeline.add(asked.read);
    static_cast<void>(sent_by(pipeline));
    EXPECT_EQ(feed(pipeline, reply_to({2 * kPage, kPage}), 100'000), ReplyVerdict::wrong_echo);
    EXPECT_FALSE(asked.read.done);
    EXPECT_EQ(pipeline.wrong_echo(), (PageRequest{2 * kPage, kPage}));
    EXPECT_EQ(pipeline.front_read(), &asked.read);
}

TEST(ReplyPipeline, ARefusalIsToldFromAWrongEcho) {
    ReplyPipeline pipeline(kPage, 8);
    Asked asked(kPage, kPage);
    pipeline.add(asked.read);
    static_cast<void>(sent_by(pipeline));
    EXPECT_EQ(feed(pipeline, encode({kPage, kRefusedPageSize}), 100'000), ReplyVerdict::refused);
}

TEST(ReplyPipeline, WhatWasUnansweredIsAskedAgainInOrder) {
    ReplyPipeline pipeline(kPage, 3);
    Asked many(0, 5 * kPage);
    pipeline.add(many.read);
    const auto first = sent_by(pipeline);
    EXPECT_EQ(feed(pipeline, reply_to(first[0]), 100'000), ReplyVerdict::good);
    const auto second = reply_to(first[1]);
    EXPECT_EQ(feed(pipeline, std::span(second).first(100), 100'000), ReplyVerdict::good);
    pipeline.disconnected();
    EXPECT_EQ(sent_by(pipeline), (std::vector<PageRequest>{{kPage, kPage}, {2 * kPage, kPage}, {3 * kPage, kPage}}));
    EXPECT_EQ(pipeline.repeated_requests(), 2U);
    for (std::uint64_t page = 1; page < 5; ++page) {
        static_cast<void>(sent_by(pipeline));
        EXPECT_EQ(feed(pipeline, reply_to({page * kPage, kPage}), 3000), ReplyVerdict::good);
    }
    EXPECT_TRUE(many.read.done);
    EXPECT_EQ(many.out, bytes_at(0, 5 * kPage));
}

TEST(ReplyPipeline, APageThatEndsConnectionsGoesBehindTheOthers) {
    ReplyPipeline pipeline(kPage, 8);
    Asked bad(0, kPage);
    Asked good(kPage, kPage);
    pipeline.add(bad.read);
    pipeline.add(good.read);
    static_cast<void>(sent_by(pipeline));
    pipeline.disconnected();
    EXPECT_EQ(sent_by(pipeline).front().ipa, 0U);
    pipeline.disconnected();
    EXPECT_EQ(pipeline.drops_of(bad.read), 2U);
    EXPECT_EQ(sent_by(pipeline).front().ipa, kPage);
    EXPECT_EQ(feed(pipeline, reply_to({kPage, kPage}), 100'000), ReplyVerdict::good);
    EXPECT_TRUE(good.read.done);
    EXPECT_FALSE(bad.read.done);
    pipeline.disconnected();
    pipeline.fail_all({.status = ReadStatus::closed});
    EXPECT_EQ(bad.read.result.status, ReadStatus::closed);
    EXPECT_TRUE(pipeline.to_send().empty());
}

TEST(ReplyPipeline, ARandomPeerThatBreaksOffGivesEveryByteInTheEnd) {
    std::mt19937_64 random(7);  // NOLINT: the same order every time
    for (int round = 0; round < 200; ++round) {
        ReplyPipeline pipeline(kPage << (random() % 3), 1 + random() % 9);
        std::vector<std::unique_ptr<Asked>> asked;
        for (std::uint64_t i = 0; i < 1 + random() % 5; ++i) {
            asked.push_back(std::make_unique<Asked>(random() % 64 * kPage, (1 + random() % 20) * kPage));
            pipeline.add(asked.back()->read);
        }
        std::vector<PageRequest> pending;
        while (pipeline.first() != nullptr) {
            for (const PageRequest& request : sent_by(pipeline)) {
                pending.push_back(request);
            }
            ASSERT_FALSE(pending.empty());
            const auto reply = reply_to(pending.front());
            const bool breaks_off = random() % 4 == 0;
            const std::size_t given = breaks_off ? random() % reply.size() : reply.size();
            ASSERT_EQ(feed(pipeline, std::span(reply).first(given), 1 + random() % 9000), ReplyVerdict::good);
            pending.erase(pending.begin());
            if (breaks_off) {
                pipeline.disconnected();
                pending.clear();
            }
        }
        for (const auto& one : asked) {
            ASSERT_EQ(one->out, bytes_at(one->read.ipa, one->out.size()));
        }
    }
}

TEST(PageRequestReader, NeighboursAreOneRunAndTheRestAreRunsOfTheirOwn) {
    PageRequestReader reader({0, 64 * kPage, 16 * kPage}, 16);
    std::vector<std::byte> bytes;
    for (const PageRequest& request :
         {PageRequest{0, kPage}, {kPage, 2 * kPage}, {8 * kPage, kPage}, {9 * kPage, kPage}}) {
        const auto one = encode(request);
        bytes.insert(bytes.end(), one.begin(), one.end());
    }
    for (const std::byte byte : bytes) {
        ASSERT_TRUE(reader.take_run(1 << 20).requests.empty());
        reader.room().front() = byte;
        reader.received(1);
        if (!reader.is_inside_request()) {
            EXPECT_EQ(reader.take_run(1 << 20).requests.size(), 1U);
        }
    }
    std::ranges::copy(bytes, reader.room().begin());
    reader.received(bytes.size());
    EXPECT_EQ(reader.take_run(1 << 20).bytes, 3 * kPage);
    EXPECT_EQ(reader.take_run(kPage).requests.size(), 1U) << "a run must not be longer than the buffer";
    EXPECT_EQ(reader.take_run(1 << 20).requests.front().ipa, 9 * kPage);
    EXPECT_TRUE(reader.take_run(1 << 20).requests.empty());
}

TEST(PageRequestReader, EveryBadRequestIsRefusedByName) {
    struct Bad {
        PageRequest request;
        const char* named;
    };
    const std::vector<Bad> table{
        {{0, 0}, "power of two"},
        {{0, 4095}, "power of two"},
        {{0, 2048}, "power of two"},
        {{0, 3 * kPage}, "power of two"},
        {{0, ~std::uint64_t{0}}, "power of two"},
        {{0, 32 * kPage}, "max_page_size"},
        {{0, std::uint64_t{1} << 63U}, "max_page_size"},
        {{kPage + 1, kPage}, "multiple of 4096"},
        {{0, kPage}, "outside"},
        {{66 * kPage, kPage}, "outside"},
        {{~std::uint64_t{0} - kPage + 1, kPage}, "outside"},
        {{65 * kPage, 2 * kPage}, "ends outside"},
    };
    for (const Bad& bad : table) {
        PageRequestReader reader({2 * kPage, 63 * kPage + 100, 16 * kPage}, 16);
        const auto bytes = encode(bad.request);
        std::ranges::copy(bytes, reader.room().begin());
        reader.received(bytes.size());
        const RequestRun run = reader.take_run(1 << 20);
        ASSERT_NE(run.problem, nullptr) << hex(bad.request.ipa) << " " << bad.request.page_size;
        EXPECT_NE(std::string(run.problem).find(bad.named), std::string::npos) << run.problem;
    }
}

TEST(PageRequestReader, TheLastPageMayRunOverTheEnd) {
    PageRequestReader reader({2 * kPage, 63 * kPage + 100, 16 * kPage}, 16);
    const auto bytes = encode({65 * kPage, kPage});
    std::ranges::copy(bytes, reader.room().begin());
    reader.received(bytes.size());
    EXPECT_EQ(reader.take_run(1 << 20).problem, nullptr);
}

TEST(SocketAddress, ReadsWhatPeopleWrite) {
    EXPECT_EQ(SocketAddress::parse("/run/x").text(), "unix:/run/x");
    EXPECT_EQ(SocketAddress::parse("unix:relative").path(), "relative");
    EXPECT_EQ(SocketAddress::parse("unix:@name").text(), "unix:@name");
    EXPECT_EQ(SocketAddress::parse("tcp:host:7").host(), "host");
    EXPECT_EQ(SocketAddress::parse("tcp:[::1]:65535").text(), "tcp:[::1]:65535");
    EXPECT_EQ(SocketAddress::parse("tcp:[::1]:65535").host(), "::1");
    EXPECT_EQ(SocketAddress::parse("tcp:127.0.0.1:0").with_port(9).text(), "tcp:127.0.0.1:9");
    EXPECT_EQ(SocketAddress::parse("tcp:127.0.0.1:9").resolve().size(), 1U);
}

TEST(SocketAddress, RefusesTheRestByName) {
    for (const char* text : {"", "unix:", "file:/x", "tcp:", "tcp:host", "tcp:host:", "tcp::7", "tcp:host:65536",
                             "tcp:host:-1", "tcp:host:7x", "tcp:::1:7", "tcp:[::1]", "tcp:[]:7", "relative"}) {
        EXPECT_THROW(static_cast<void>(SocketAddress::parse(text)), ArgumentError) << text;
    }
    EXPECT_THROW(static_cast<void>(SocketAddress::parse("unix:/" + std::string(200, 'x'))), ArgumentError);
}

}  // namespace
}  // namespace vmthaw::source_tests
