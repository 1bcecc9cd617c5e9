#include "fuse/fuse_dispatcher.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <thread>

#include "base/error.hpp"
#include "fuse_client.hpp"

// INIT, the end of a client, and what belongs to no file system.
namespace vmthaw {
namespace {

class FuseDispatch : public ::testing::Test {
protected:
    std::shared_ptr<MemoryFs> fs = std::make_shared<MemoryFs>();
    FuseDispatcher dispatcher{fs};
    FuseClient client{dispatcher};
};

class CountingDax final : public DaxTarget {
public:
    int setup_mapping(std::uint64_t node, std::span<const std::byte> body) noexcept override {
        last_node = node;
        last_bytes = body.size();
        return answer;
    }
    int remove_mapping(std::uint64_t node, std::span<const std::byte> body) noexcept override {
        return setup_mapping(node, body);
    }
    void reset() noexcept override { ++resets; }
    std::uint16_t map_alignment() const noexcept override { return 14; }
    bool uses_dax(std::uint64_t /*node*/, const FuseAttr& attr, std::string_view name) noexcept override {
        last_name = name;
        return attr.size > 4;
    }
    void opened(std::uint64_t node) noexcept override { last_opened = node; }
    void forgotten(std::uint64_t node) noexcept override { last_forgotten = node; }

    int answer = 0;
    int resets = 0;
    std::uint64_t last_node = 0;
    std::size_t last_bytes = 0;
    std::string last_name;
    std::uint64_t last_opened = 0;
    std::uint64_t last_forgotten = 0;
};

TEST_F(FuseDispatch, RefusesAConfigurationOutOfBounds) {
    EXPECT_THROW(FuseDispatcher(nullptr), ArgumentError);
    for (const std::uint32_t size : {0U, 4095U, 5000U, 2U << 20U}) {
        FuseDispatcherConfig config;
        config.max_write_bytes = size;
        EXPECT_THROW(FuseDispatcher(fs, config), ArgumentError);
    }
}

TEST_F(FuseDispatch, AnswersInitWithWhatBothKnow) {
    const FuseInitOut answer = client.begin();
    EXPECT_EQ(answer.major, 7U);
    EXPECT_EQ(answer.minor, kFuseMinor);
    EXPECT_EQ(answer.max_write, 1U << 20);
    EXPECT_EQ(answer.max_pages, 256U);
    EXPECT_EQ(answer.time_gran, 1U);
    EXPECT_NE(answer.flags & kFuseInitExt, 0U);
    EXPECT_NE(answer.flags & kFuseMaxPages, 0U);
    EXPECT_EQ(answer.flags & kFusePosixLocks, 0U);
    EXPECT_EQ(answer.flags & kFuseMapAlignment, 0U);
    EXPECT_EQ(answer.map_alignment, 0U);
    EXPECT_TRUE(dispatcher.initialized());
}

TEST_F(FuseDispatch, ClaimsNoFlagThatTheClientDidNotOffer) {
    const FuseInitOut answer = client.begin(kFuseBigWrites);
    EXPECT_EQ(answer.flags, kFuseBigWrites);
    EXPECT_EQ(answer.flags2, 0U);
}

TEST_F(FuseDispatch, TakesTheShortInitOfOlderKernels) {
    Bytes body;
    append(body, FuseClient::offer(kFuseBigWrites, 31));
    body.resize(16);
    EXPECT_EQ(client.ask(FuseOpcode::init, 0, body).error, 0);
    EXPECT_TRUE(dispatcher.initialized());
}

TEST_F(FuseDispatch, RefusesAProtocolThatIsTooOldAndAsksForItsOwnWhereItIsTooNew) {
    EXPECT_EQ(client.ask(FuseOpcode::init, 0, FuseClient::offer(0, 11)).error, EPROTO);
    FuseInitIn other = FuseClient::offer();
    other.major = 6;
    EXPECT_EQ(client.ask(FuseOpcode::init, 0, other).error, EPROTO);
    other.major = 8;
    const Answer answer = client.ask(FuseOpcode::init, 0, other);
    EXPECT_EQ(answer.error, 0);
    EXPECT_EQ(answer.as<FuseInitOut>().major, 7U);
    EXPECT_FALSE(dispatcher.initialized());
}

TEST_F(FuseDispatch, AnswersEioBeforeInitAndAfterDestroy) {
    EXPECT_EQ(client.ask(FuseOpcode::getattr, 1, FuseGetattrIn{}).error, EIO);
    EXPECT_EQ(client.ask(FuseOpcode::destroy, 0).error, EIO);
    EXPECT_FALSE(client.ask(FuseOpcode::forget, 1, FuseForgetIn{1}).replied);
    client.begin();
    EXPECT_EQ(client.getattr(1).mode & S_IFMT, static_cast<std::uint32_t>(S_IFDIR));
    EXPECT_EQ(client.ask(FuseOpcode::destroy, 0).error, 0);
    EXPECT_EQ(client.ask(FuseOpcode::getattr, 1, FuseGetattrIn{}).error, EIO);
    client.begin();
    EXPECT_EQ(client.ask(FuseOpcode::getattr, 1, FuseGetattrIn{}).error, 0);
}

TEST_F(FuseDispatch, LetsGoOfEverythingAtASecondInit) {
    client.begin();
    const auto [node, handle] = client.create(1, "kept");
    EXPECT_EQ(fs->held_nodes(), 1U);
    EXPECT_EQ(fs->open_handles(), 1U);
    client.begin();
    EXPECT_EQ(fs->held_nodes(), 0U);
    EXPECT_EQ(fs->open_handles(), 0U);
    EXPECT_EQ(client.read(node, handle, 0, 10).error, EBADF);
    EXPECT_EQ(client.ask(FuseOpcode::getattr, node, FuseGetattrIn{}).error, ESTALE);
    EXPECT_NE(client.lookup(1, "kept").nodeid, 0U);
}

TEST_F(FuseDispatch, LetsGoOfEverythingAtDestroyAtAResetAndWhenItGoes) {
    client.begin();
    client.create(1, "one");
    EXPECT_EQ(client.ask(FuseOpcode::destroy, 0).error, 0);
    EXPECT_EQ(fs->held_nodes() + fs->open_handles(), 0U);
    client.begin();
    client.create(1, "two");
    dispatcher.reset();
    EXPECT_FALSE(dispatcher.initialized());
    EXPECT_EQ(fs->held_nodes() + fs->open_handles(), 0U);
    {
        FuseDispatcher passing(fs);
        FuseClient other(passing);
        other.begin();
        other.create(1, "three");
        EXPECT_EQ(fs->held_nodes(), 1U);
    }
    EXPECT_EQ(fs->held_nodes() + fs->open_handles(), 0U);
}

TEST_F(FuseDispatch, AnswersEnosysToWhatNobodyKnows) {
    client.begin();
    for (const std::uint32_t opcode : {0U, 7U, 19U, 31U, 33U, 37U, 39U, 40U, 54U, 4096U, 436207616U, 0xffffffffU}) {
        EXPECT_EQ(client.ask(static_cast<FuseOpcode>(opcode), 1, Bytes(64)).error, ENOSYS) << opcode;
    }
    EXPECT_EQ(client.ask(FuseOpcode::setupmapping, 1, Bytes(40)).error, ENOSYS);
    EXPECT_EQ(client.ask(FuseOpcode::removemapping, 1, Bytes(20)).error, ENOSYS);
    EXPECT_EQ(client.ask(FuseOpcode::interrupt, 0, FuseInterruptIn{9}).error, ENOSYS);
}

TEST_F(FuseDispatch, HasNoReplyForForgetsWhateverTheyHold) {
    client.begin();
    EXPECT_FALSE(client.ask(FuseOpcode::forget, 99, FuseForgetIn{1}).replied);
    EXPECT_FALSE(client.ask(FuseOpcode::forget, 1, Bytes(3)).replied);
    EXPECT_FALSE(client.ask(FuseOpcode::batch_forget, 0, FuseBatchForgetIn{0xffffffffU, 0}).replied);
    EXPECT_FALSE(client.ask(FuseOpcode::notify_reply, 0, Bytes(8)).replied);
}

TEST_F(FuseDispatch, DoesNothingWhoseAnswerWouldNotFit) {
    client.begin();
    const Bytes request = [] {
        Bytes body;
        append(body, FuseMkdirIn{0755, 0});
        append_text(body, "lost");
        return FuseClient::frame(FuseOpcode::mkdir, 1, body);
    }();
    for (const std::size_t room : {0UL, 15UL, 16UL, 143UL}) {
        Bytes reply(room);
        const std::size_t size = dispatcher.dispatch(request, reply);
        EXPECT_EQ(size, room < 16 ? 0U : 16U);
    }
    EXPECT_EQ(fs->files(), 1U);
    EXPECT_EQ(fs->held_nodes(), 0U);
    EXPECT_GE(dispatcher.malformed(), 3U);
}

TEST_F(FuseDispatch, GivesBackWhatAReplyHeldThatNobodyTook) {
    client.begin();
    Bytes reply(dispatcher.max_reply_bytes());
    const auto lose = [&](const Bytes& request) {
        const std::size_t size = dispatcher.dispatch(request, reply);
        dispatcher.undelivered(request, std::span(reply).first(size));
    };
    Bytes body;
    append(body, FuseCreateIn{2, S_IFREG | 0644, 0, 0});
    append_text(body, "file");
    lose(FuseClient::frame(FuseOpcode::create, 1, body));
    body.clear();
    append_text(body, "file");
    lose(FuseClient::frame(FuseOpcode::lookup, 1, body));
    body.clear();
    append(body, FuseOpenIn{});
    lose(FuseClient::frame(FuseOpcode::opendir, 1, body));
    EXPECT_EQ(fs->held_nodes(), 0U);
    EXPECT_EQ(fs->open_handles(), 0U);

    const std::uint64_t handle = client.ask(FuseOpcode::opendir, 1, FuseOpenIn{}).as<FuseOpenOut>().fh;
    body.clear();
    append(body, FuseReadIn{handle, 0, 4096, 0, 0, 0, 0});
    lose(FuseClient::frame(FuseOpcode::readdirplus, 1, body));
    EXPECT_EQ(fs->held_nodes(), 0U);
    EXPECT_EQ(fs->open_handles(), 1U);
}

TEST_F(FuseDispatch, TellsTheTimesThatAreConfiguredUnlessTheFileSystemHasItsOwn) {
    FuseDispatcherConfig config;
    config.entry_ttl_ns = 2'500'000'000;
    config.attr_ttl_ns = 7;
    FuseDispatcher other(fs, config);
    FuseClient asking(other);
    asking.begin();
    asking.mkdir(1, "dir");
    const FuseEntryOut entry = asking.lookup(1, "dir");
    EXPECT_EQ(entry.entry_valid, 2U);
    EXPECT_EQ(entry.entry_valid_nsec, 500'000'000U);
    EXPECT_EQ(entry.attr_valid, 0U);
    EXPECT_EQ(entry.attr_valid_nsec, 7U);
}

TEST_F(FuseDispatch, TakesMappingsToTheDaxTargetAndSaysItsAlignment) {
    const auto dax = std::make_shared<CountingDax>();
    FuseDispatcher mapping(fs, {}, dax);
    FuseClient guest(mapping);
    const FuseInitOut answer = guest.begin();
    EXPECT_NE(answer.flags & kFuseMapAlignment, 0U);
    EXPECT_EQ(answer.flags2, kFuseHasInodeDax >> 32U);
    EXPECT_EQ(answer.map_alignment, 14U);
    EXPECT_EQ(guest.ask(FuseOpcode::setupmapping, 5, Bytes(40)).error, 0);
    EXPECT_EQ(dax->last_node, 5U);
    EXPECT_EQ(dax->last_bytes, 40U);
    dax->answer = ENXIO;
    EXPECT_EQ(guest.ask(FuseOpcode::removemapping, 6, Bytes(20)).error, ENXIO);
    EXPECT_EQ(dax->last_bytes, 20U);

    const auto [node, handle] = guest.create(1, "grows");
    EXPECT_EQ(dax->last_name, "grows");
    EXPECT_EQ(dax->last_opened, node);
    EXPECT_EQ(guest.getattr(node).flags & kFuseAttrDax, 0U);
    EXPECT_EQ(dax->last_name, "");
    guest.write(node, handle, 0, "long enough");
    EXPECT_NE(guest.getattr(node).flags & kFuseAttrDax, 0U);
    EXPECT_EQ(guest.getattr(1).flags & kFuseAttrDax, 0U);

    dax->last_opened = 0;
    EXPECT_EQ(guest.ask(FuseOpcode::open, node, FuseOpenIn{}).error, 0);
    EXPECT_EQ(dax->last_opened, node);
    guest.forget(node);
    EXPECT_EQ(dax->last_forgotten, node);

    EXPECT_EQ(dax->resets, 0);
    guest.begin();
    EXPECT_EQ(dax->resets, 1);
    guest.ask(FuseOpcode::destroy, 0);
    EXPECT_EQ(dax->resets, 2);
    mapping.reset();
    EXPECT_EQ(dax->resets, 2);
}

TEST_F(FuseDispatch, ServesSeveralThreadsWhileClientsComeAndGo) {
    client.begin();
    std::atomic<int> finished{0};
    std::vector<std::thread> threads;
    for (int number = 0; number < 3; ++number) {
        threads.emplace_back([this, number, &finished] {
            FuseClient one(dispatcher);
            const std::string name = "file" + std::to_string(number);
            for (int served = 0; served < 200;) {
                Bytes body;
                append(body, FuseCreateIn{2, S_IFREG | 0644, 0, 0});
                append_text(body, name);
                const Answer made = one.ask(FuseOpcode::create, 1, body);
                if (made.error != 0) {
                    EXPECT_EQ(made.error, EIO);
                    std::this_thread::yield();
                    continue;
                }
                ++served;
                const std::uint64_t node = made.as<FuseEntryOut>().nodeid;
                const std::uint64_t handle = made.as<FuseOpenOut>(sizeof(FuseEntryOut)).fh;
                const int error = one.write(node, handle, 0, name).error;
                EXPECT_TRUE(error == 0 || error == EIO || error == EBADF) << error;
            }
            ++finished;
        });
    }
    for (int round = 0; finished.load() < 3; ++round) {
        if (round % 3 == 0) {
            dispatcher.reset();
        }
        client.begin();
        std::this_thread::yield();
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    dispatcher.reset();
    EXPECT_EQ(fs->held_nodes(), 0U);
    EXPECT_EQ(fs->open_handles(), 0U);
    EXPECT_EQ(fs->files(), 4U);
}

}  // namespace
}  // namespace vmthaw
