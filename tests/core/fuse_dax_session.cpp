// The dispatcher, a file system in memory and a DAX session together, asked by bytes as Linux asks.
#include <gtest/gtest.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <future>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "dax/dax_session.hpp"
#include "dax/window_mapper.hpp"
#include "filesystem/memory_fs.hpp"
#include "fuse/dax_session_target.hpp"
#include "fuse/fuse_dispatcher.hpp"
#include "fuse_client.hpp"

namespace vmthaw {
namespace {

constexpr std::uint64_t kFuseChunk = 2U << 20U;
constexpr std::uint64_t kWindow = 0x80'0000'0000;

Bytes setup(std::uint64_t window_offset, std::uint64_t flags) {
    const SetupMappingIn request{~std::uint64_t{0}, 0, kFuseChunk, flags, window_offset};
    Bytes body(sizeof request);
    std::memcpy(body.data(), &request, sizeof request);
    return body;
}

Bytes removal(std::uint64_t window_offset) {
    constexpr std::uint32_t count = 1;
    const RemoveMappingOne one{window_offset, kFuseChunk};
    Bytes body(sizeof count + sizeof one);
    std::memcpy(body.data(), &count, sizeof count);
    std::memcpy(body.data() + sizeof count, &one, sizeof one);
    return body;
}

class FuseDaxSession : public ::testing::Test {
protected:
    void begin(std::shared_ptr<DaxDecisions> decisions) {
        dispatcher = std::make_unique<FuseDispatcher>(
            fs, FuseDispatcherConfig{}, std::make_shared<DaxSessionTarget>(session, std::move(decisions)));
        guest = std::make_unique<FuseClient>(*dispatcher);
        hello = guest->begin();
    }
    bool is_mapped_by(const FuseAttr& attr) const { return (attr.flags & kFuseAttrDax) != 0; }

    std::shared_ptr<MemoryFs> fs = std::make_shared<MemoryFs>();
    std::shared_ptr<WindowMapper> window = std::make_shared<WindowMapper>(kWindow, 8 * kFuseChunk);
    std::shared_ptr<DaxSession> session = std::make_shared<DaxSession>(
        fs, window, DaxConfig{.guest_base = kWindow, .window_bytes = 8 * kFuseChunk, .granule_bytes = 16384});
    std::unique_ptr<FuseDispatcher> dispatcher;
    std::unique_ptr<FuseClient> guest;
    FuseInitOut hello;
};

TEST_F(FuseDaxSession, AFileIsReadAndWrittenThroughTheWindowAndByRequestsAlike) {
    begin(nullptr);
    EXPECT_EQ(hello.map_alignment, 14U);
    const auto [node, handle] = guest->create(1, "file");
    guest->write(node, handle, 0, "by a request");
    ASSERT_EQ(guest->ask(FuseOpcode::setupmapping, node, setup(kFuseChunk, 2)).error, 0);
    // Linux goes from reading to writing so, without a removal between.
    ASSERT_EQ(guest->ask(FuseOpcode::setupmapping, node, setup(kFuseChunk, 3)).error, 0);
    EXPECT_EQ(session->active_slot_count(), 1U);
    std::array<std::byte, 12> seen{};
    ASSERT_EQ(window->read(kWindow + kFuseChunk, seen), 0);
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(seen.data()), seen.size()), "by a request");
    ASSERT_EQ(window->write(kWindow + kFuseChunk, std::as_bytes(std::span<const char>("BY", 2))), 0);
    EXPECT_EQ(guest->read(node, handle, 0, 12).text(), "BY a request");

    EXPECT_EQ(guest->ask(FuseOpcode::removemapping, node, removal(kFuseChunk)).error, 0);
    EXPECT_EQ(session->active_slot_count(), 0U);
    EXPECT_EQ(guest->ask(FuseOpcode::setupmapping, 999, setup(0, 2)).error, ESTALE);
    EXPECT_EQ(guest->ask(FuseOpcode::setupmapping, node, Bytes(39)).error, EINVAL);
}

TEST_F(FuseDaxSession, ANewClientAndTheEndOfTheOldOneTakeEveryMappingAway) {
    begin(nullptr);
    guest->create(1, "file");
    for (const bool at_the_end : {false, true}) {
        ASSERT_EQ(guest->ask(FuseOpcode::setupmapping, guest->lookup(1, "file").nodeid, setup(0, 2)).error, 0);
        ASSERT_EQ(session->active_slot_count(), 1U);
        if (at_the_end) {
            guest->ask(FuseOpcode::destroy, 0);
        } else {
            guest->begin();
        }
        EXPECT_EQ(session->active_slot_count(), 0U);
    }
}

class NotingPolicy final : public DaxPolicy {
public:
    bool uses_dax(const DaxFile& file) noexcept override {
        asked.push_back(file.name + ":" + std::to_string(file.size_bytes));
        return file.size_bytes >= 4 && !file.name.ends_with(".log");
    }
    std::vector<std::string> asked;
};

TEST_F(FuseDaxSession, ThePolicyIsAskedOnceForEachOpenByTheNameThatTheClientFound) {
    const auto policy = std::make_shared<NotingPolicy>();
    begin(std::make_shared<DaxDecisions>(policy));
    for (const auto& [name, is_mapped] : {std::pair{"big", true}, std::pair{"big.log", false}}) {
        policy->asked.clear();
        const auto [node, handle] = guest->create(1, name);
        guest->write(node, handle, 0, "enough");
        EXPECT_FALSE(is_mapped_by(guest->getattr(node))) << "it was small when it was opened";
        EXPECT_FALSE(is_mapped_by(guest->lookup(1, name).attr)) << name;
        EXPECT_EQ(guest->ask(FuseOpcode::open, node, FuseOpenIn{}).error, 0);
        EXPECT_EQ(is_mapped_by(guest->getattr(node)), is_mapped) << name;
        EXPECT_EQ(is_mapped_by(guest->lookup(1, name).attr), is_mapped) << name;
        const std::vector<std::string> expected{std::string(name) + ":0", std::string(name) + ":6"};
        EXPECT_EQ(policy->asked, expected);
    }
    EXPECT_THROW(DaxSessionTarget(nullptr), ArgumentError);
}

// As one in Python would, which takes the GIL that another thread holds while it waits for the file system.
class WaitingPolicy final : public DaxPolicy {
public:
    explicit WaitingPolicy(const MemoryFs& served) : served_(served) {}
    bool uses_dax(const DaxFile& file) noexcept override {
        asked.push_back(file.name);
        others_.push_back(std::async(std::launch::async, [this] { return served_.held_nodes(); }));
        has_waited_in_vain |= others_.back().wait_for(std::chrono::seconds(10)) != std::future_status::ready;
        return file.name == "b";
    }
    std::vector<std::string> asked;
    bool has_waited_in_vain = false;

private:
    const MemoryFs& served_;
    std::vector<std::future<std::uint64_t>> others_;
};

TEST_F(FuseDaxSession, NoLockIsHeldWhileThePolicyIsAskedAboutAListing) {
    begin({});
    for (const char* const name : {"a", "b", "c"}) {
        guest->create(1, name);
    }
    const auto policy = std::make_shared<WaitingPolicy>(*fs);
    begin(std::make_shared<DaxDecisions>(policy));
    const std::uint64_t handle = guest->ask(FuseOpcode::opendir, 1, FuseOpenIn{}).as<FuseOpenOut>().fh;
    const Answer answer = guest->ask(FuseOpcode::readdirplus, 1, FuseReadIn{handle, 0, 4096, 0, 0, 0, 0});
    EXPECT_FALSE(policy->has_waited_in_vain);
    EXPECT_EQ(policy->asked, (std::vector<std::string>{"a", "b", "c"}));
    std::vector<ListedName> names;
    FuseClient::read_entries(answer, true, names);
    ASSERT_EQ(names.size(), 5U);
    std::size_t at = 0;
    for (const ListedName& listed : names) {
        EXPECT_EQ(is_mapped_by(answer.as<FuseEntryOut>(at).attr), listed.name == "b") << listed.name;
        at += (sizeof(FuseDirentPlus) + listed.name.size() + 7) / 8 * 8;
    }
}

}  // namespace
}  // namespace vmthaw
