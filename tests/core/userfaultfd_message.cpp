#include "userfaultfd/message.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <variant>

#include "userfaultfd/features.hpp"

namespace vmthaw {
namespace {

constexpr std::uint64_t kHighest = std::numeric_limits<std::uint64_t>::max();

UffdMessage message_of(std::uint8_t event, std::uint64_t first, std::uint64_t second, std::uint64_t third = 0) {
    UffdMessage message{};
    message.event = event;
    message.arg.raw[0] = first;
    message.arg.raw[1] = second;
    message.arg.raw[2] = third;
    return message;
}

const UnknownMessage* malformed(const UffdMessage& message) {
    static Message decoded;
    decoded = decode(message);
    const auto* unknown = std::get_if<UnknownMessage>(&decoded);
    return unknown != nullptr && unknown->is_malformed ? unknown : nullptr;
}

TEST(UserfaultfdMessage, PageFaultCarriesAddressFlagsAndThread) {
    const Message decoded = decode(message_of(kEventPagefault, kFaultWrite | kFaultWriteProtect, 0x7000, 42));
    const auto& fault = std::get<PagefaultMessage>(decoded);
    EXPECT_EQ(fault.host_address, 0x7000U);
    EXPECT_EQ(fault.thread_id, 42U);
    EXPECT_TRUE(fault.is_write() && fault.is_write_protect());
    EXPECT_FALSE(fault.is_minor() || fault.is_missing());
}

TEST(UserfaultfdMessage, RangesOfEventsAreTaken) {
    EXPECT_EQ(std::get<ForkMessage>(decode(message_of(kEventFork, 7, 0))).fd, 7);
    const auto remap = std::get<RemapMessage>(decode(message_of(kEventRemap, 0x1000, 0x9000, 0x2000)));
    EXPECT_EQ(remap.host_from + remap.host_to + remap.size_bytes, 0x1000U + 0x9000U + 0x2000U);
    EXPECT_EQ(std::get<RemoveMessage>(decode(message_of(kEventRemove, 0x1000, 0x3000))).host_end, 0x3000U);
    EXPECT_EQ(std::get<UnmapMessage>(decode(message_of(kEventUnmap, 0x1000, 0x3000))).host_start, 0x1000U);
    EXPECT_NO_THROW((void)std::get<UnmapMessage>(decode(message_of(kEventUnmap, 0x1000, 0x1000))));
}

TEST(UserfaultfdMessage, AnUnknownEventSurvivesWithItsBytes) {
    const UffdMessage message = message_of(0x77, 1, 2, 3);
    const Message decoded = decode(message);
    const auto& unknown = std::get<UnknownMessage>(decoded);
    EXPECT_EQ(unknown.event, 0x77);
    EXPECT_FALSE(unknown.is_malformed);
    EXPECT_EQ(std::memcmp(unknown.bytes.data(), &message, sizeof message), 0);
}

TEST(UserfaultfdMessage, ImpossibleFieldsAreMalformed) {
    EXPECT_NE(malformed(message_of(kEventRemove, 0x3000, 0x1000)), nullptr);
    EXPECT_NE(malformed(message_of(kEventUnmap, kHighest, 0)), nullptr);
    EXPECT_NE(malformed(message_of(kEventRemap, 0x1000, 0x2000, kHighest)), nullptr);
    EXPECT_NE(malformed(message_of(kEventRemap, 0x1000, kHighest - 0xFFF, 0x1001)), nullptr);
    EXPECT_NE(malformed(message_of(kEventFork, 0xFFFFFFFFU, 0)), nullptr);
    EXPECT_EQ(malformed(message_of(kEventRemap, 0x1000, kHighest - 0xFFF, 0xFFF)), nullptr);
}

TEST(UserfaultfdFeatures, NamesFollowTheBitsAndUnknownOnesKeepTheirNumber) {
    const Features features((1U << 3U) | (1U << 16U) | (1U << 17U));
    EXPECT_EQ(features.names(), (std::vector<std::string>{"event_remove", "move", "bit17"}));
    EXPECT_TRUE(features.has(Feature::move));
    EXPECT_FALSE(features.has(Feature::sigbus));
}

}  // namespace
}  // namespace vmthaw
