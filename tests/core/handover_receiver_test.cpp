#include "handover/handover_receiver.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <string_view>

#include "base/send_descriptors.hpp"
#include "descriptor_limit.hpp"
#include "handover/peer.hpp"
#include "userfaultfd/userfaultfd_factory.hpp"

namespace vmthaw {
namespace {

constexpr std::string_view kText =
    R"([{"base_host_virt_addr":4096,"size":8192,"offset":0,"page_size":4096,"page_size_kib":4096}])";

int open_descriptors() {
    const std::filesystem::directory_iterator all("/proc/self/fd");
    return static_cast<int>(std::distance(begin(all), end(all)));
}

class HandoverReceiverTest : public ::testing::Test {
protected:
    void SetUp() override {
        try {
            userfaultfd_ = UserfaultfdFactory().create().release();
        } catch (const Error& error) {
            GTEST_SKIP() << "needs userfaultfd: " << error.what();
        }
        other_ = UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
        connect();
    }

    void connect() {
        std::array<int, 2> sockets{};
        ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets.data()), 0);
        vmm_ = UniqueFd(sockets[0]);
        receiver_ = std::make_unique<HandoverReceiver>(UniqueFd(sockets[1]));
    }

    void send(std::string_view text, const std::vector<int>& descriptors = {}) const {
        send_descriptors(vmm_.get(), text, descriptors);
    }

    [[nodiscard]] int uffd() const { return userfaultfd_.get(); }
    void expect_failure(const std::string& part, const std::string& field = "") {
        ASSERT_EQ(receiver_->step(), HandoverStatus::failed);
        EXPECT_NE(receiver_->failure().text.find(part), std::string::npos) << receiver_->failure().text;
        EXPECT_EQ(receiver_->failure().field, field);
        EXPECT_EQ(receiver_->step(), HandoverStatus::failed);  // final
        EXPECT_THROW(static_cast<void>(receiver_->take()), StateError);
    }

    UniqueFd userfaultfd_;
    UniqueFd other_;
    UniqueFd vmm_;
    std::unique_ptr<HandoverReceiver> receiver_ = std::make_unique<HandoverReceiver>(UniqueFd());
};

TEST_F(HandoverReceiverTest, TakesOneMessageWithItsDescriptor) {
    EXPECT_EQ(receiver_->step(), HandoverStatus::need_more);
    EXPECT_EQ(receiver_->pending_problem(), "nothing came");
    send(kText, {uffd()});
    ASSERT_EQ(receiver_->step(), HandoverStatus::complete);
    const Handover handover = receiver_->take();
    EXPECT_EQ(handover.regions, parse_handover_message(kText));
    EXPECT_GE(handover.socket.get(), 0);
    EXPECT_NE(static_cast<unsigned>(::fcntl(handover.userfaultfd.fd(), F_GETFD)) & unsigned{FD_CLOEXEC}, 0U);
    EXPECT_THROW(static_cast<void>(receiver_->take()), StateError);
}

TEST_F(HandoverReceiverTest, GivesTheSameResultForEverySplitAndEveryPartOfTheDescriptor) {
    for (std::size_t split = 1; split < kText.size(); ++split) {
        for (const bool early : {true, false}) {
            connect();
            send(kText.substr(0, split), early ? std::vector{uffd()} : std::vector<int>{});
            ASSERT_EQ(receiver_->step(), HandoverStatus::need_more);
            send(kText.substr(split), early ? std::vector<int>{} : std::vector{uffd()});
            ASSERT_EQ(receiver_->step(), HandoverStatus::complete) << split;
            EXPECT_EQ(receiver_->take().regions, parse_handover_message(kText));
        }
    }
}

TEST_F(HandoverReceiverTest, GivesTheSameResultForRandomSplits) {
    std::mt19937 random(7);  // NOLINT(cert-msc51-cpp): the same splits every time
    std::string text = "[";
    for (int i = 0; i < 300; ++i) {
        text += std::string(i == 0 ? "" : " ,\n") + R"({"base_host_virt_addr":)" + std::to_string(i * 8192) +
                R"(,"size":8192,"offset":0,"page_size":4096,"x":"]\"\\"})";
    }
    text += "]";
    for (int round = 0; round < 200; ++round) {
        connect();
        std::size_t at = 0;
        const bool with_last = random() % 2 == 0;
        bool sent = false;
        while (at < text.size()) {
            const std::size_t length = std::min<std::size_t>(text.size() - at, 1 + random() % 3000);
            const bool last = at + length == text.size();
            const bool now = !sent && (last || (!with_last && random() % 4 == 0));
            send(std::string_view(text).substr(at, length), now ? std::vector{uffd()} : std::vector<int>{});
            sent = sent || now;
            at += length;
            if (last || random() % 2 == 0) {
                ASSERT_EQ(receiver_->step(), last ? HandoverStatus::complete : HandoverStatus::need_more);
            }
        }
        EXPECT_EQ(receiver_->take().regions, parse_handover_message(text));
    }
}

TEST_F(HandoverReceiverTest, WaitsForADescriptorThatComesAfterTheMessage) {
    send(kText);
    EXPECT_EQ(receiver_->step(), HandoverStatus::need_more);
    EXPECT_EQ(receiver_->pending_problem(), "the message came, but no descriptor (SCM_RIGHTS)");
    send(" ", {uffd()});
    EXPECT_EQ(receiver_->step(), HandoverStatus::complete);
}

TEST_F(HandoverReceiverTest, ClosesSurplusDescriptorsAndKeepsTheFirst) {
    const int before = open_descriptors();
    send(kText, {uffd(), other_.get(), uffd(), other_.get()});
    ASSERT_EQ(receiver_->step(), HandoverStatus::complete);
    EXPECT_EQ(open_descriptors(), before + 1);
    EXPECT_EQ(receiver_->take().surplus_descriptors, 3U);
    EXPECT_EQ(open_descriptors(), before - 1);
}

TEST_F(HandoverReceiverTest, ReportsAPeerThatClosesWithoutAWord) {
    vmm_.reset();
    expect_failure("nothing came");
}

TEST_F(HandoverReceiverTest, ReportsAPeerThatClosesInTheMiddle) {
    send(kText.substr(0, 20), {uffd()});
    vmm_.reset();
    expect_failure("20 bytes of an unfinished message and a descriptor came");
}

TEST_F(HandoverReceiverTest, ReportsAPeerThatClosesWithoutADescriptor) {
    send(kText);
    vmm_.reset();
    expect_failure("no descriptor", "descriptor");
}

TEST_F(HandoverReceiverTest, TakesAHandoverOfAPeerThatDiedRightAfterIt) {
    send(kText, {uffd()});
    vmm_.reset();
    EXPECT_EQ(receiver_->step(), HandoverStatus::complete);
}

TEST_F(HandoverReceiverTest, RefusesADescriptorThatIsNoUserfaultfd) {
    const int before = open_descriptors();
    send(kText, {other_.get(), uffd()});
    expect_failure("/dev/null", "descriptor");
    EXPECT_EQ(open_descriptors(), before - 1);  // the connection is closed, nothing else stays open
}

TEST_F(HandoverReceiverTest, RefusesGarbageAtOnce) {
    send("GET / HTTP/1.1\r\n");
    expect_failure("does not begin with '['");
}

TEST_F(HandoverReceiverTest, RefusesTrailingGarbage) {
    send(std::string(kText) + "\n[]", {uffd()});
    expect_failure("something follows the array");
}

TEST_F(HandoverReceiverTest, NamesTheFieldOfABadMessage) {
    send(R"([{"base_host_virt_addr":4096,"size":-1}])", {uffd()});
    expect_failure("negative", "regions[0].size");
}

TEST_F(HandoverReceiverTest, RefusesAnEndlessMessage) {
    const std::string piece(1U << 16U, ' ');
    send("[");
    HandoverStatus status = HandoverStatus::need_more;
    for (std::size_t sent = 0; sent <= kMaxHandoverBytes && status == HandoverStatus::need_more; sent += piece.size()) {
        send(piece);
        status = receiver_->step();
    }
    EXPECT_EQ(status, HandoverStatus::failed);
    EXPECT_NE(receiver_->failure().text.find("longer than"), std::string::npos);
}

TEST_F(HandoverReceiverTest, SaysThatItIsOutOfDescriptors) {
    const UniqueFd lowest_free(::dup(0));
    send(kText, {uffd(), other_.get()});
    {
        const DescriptorLimit one_more(static_cast<rlim_t>(lowest_free.get()) + 1);
        ASSERT_EQ(receiver_->step(), HandoverStatus::failed);
    }
    EXPECT_NE(receiver_->failure().text.find("RLIMIT_NOFILE"), std::string::npos) << receiver_->failure().text;
}

TEST_F(HandoverReceiverTest, KnowsWhoThePeerIs) {
    const PeerCredentials peer = peer_credentials(receiver_->fd());
    EXPECT_EQ(peer.pid, ::getpid());
    EXPECT_EQ(peer.uid, ::getuid());
    EXPECT_EQ(peer.gid, ::getgid());
    const PidFd pidfd = open_peer_pidfd(receiver_->fd());
    EXPECT_EQ(pidfd.pid(), ::getpid());
    EXPECT_FALSE(pidfd.has_exited());
    EXPECT_NE(static_cast<unsigned>(::fcntl(pidfd.fd(), F_GETFD)) & unsigned{FD_CLOEXEC}, 0U);
}

}  // namespace
}  // namespace vmthaw
