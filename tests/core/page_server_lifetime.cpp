#include <gtest/gtest.h>
#include <sys/socket.h>

#include <array>
#include <optional>
#include <sstream>

#include "base/send_descriptors.hpp"
#include "base/unix_address.hpp"
#include "descriptor_limit.hpp"
#include "handover/page_server.hpp"
#include "pager_support.hpp"

namespace vmthaw {
namespace {

using namespace pager_tests;

constexpr std::uint64_t kGuestPages = 16;

// A VMM in this process: memory and a connection.
struct Vmm {
    Vmm() : guest(kGuestPages) {}
    void connect(const std::string& path) {
        socket = UniqueFd(check_errno(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket"));
        const UnixAddress address = UnixAddress::of(path);
        check_errno(::connect(socket.get(), address.get(), address.length()), "connect");
    }
    void send() const {
        std::ostringstream out;
        out << R"([{"base_host_virt_addr":)" << guest.address() << R"(,"size":)" << kGuestPages * kPage
            << R"(,"offset":0,"page_size":4096,"page_size_kib":4096}])";
        const Userfaultfd clone = guest.clone();
        send_descriptors(socket.get(), out.str(), std::array{clone.fd()});
    }
    Guest guest;
    UniqueFd socket;
};

class PageServerTest : public ::testing::Test {
protected:
    void SetUp() override {
        VMTHAW_NEEDS_USERFAULTFD();
        std::array<char, 32> name{"/tmp/vmthaw-XXXXXX"};
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        directory_ = name.data();
        path_ = directory_ + "/s";
    }
    void TearDown() override {
        ::unlink(path_.c_str());
        ::rmdir(directory_.c_str());
    }
    [[nodiscard]] std::shared_ptr<PageServer> server(std::shared_ptr<PageSource> source) const {
        PageServerOptions options;
        options.listener = UnixListener::create(path_);
        options.source = std::move(source);
        options.config = quick_config();
        options.handover_timeout_ns = 300'000'000;
        std::shared_ptr<PageServer> made = PageServer::create(std::move(options));
        made->start();
        return made;
    }
    static std::shared_ptr<PageSource> source() { return std::make_shared<ScriptedSource>(kGuestPages); }
    static void drain_all(PageServer& server) {
        for (const auto& session : server.sessions()) {
            drain(session);
        }
    }

    std::string directory_;
    std::string path_;
};

TEST_F(PageServerTest, StartsAndStopsTwiceAndWithoutAnybody) {
    const auto made = server(source());
    made->start();
    EXPECT_TRUE(made->listening());
    made->stop_listening();
    made->stop_listening();
    made->close();
    made->close();
    EXPECT_FALSE(made->listening());
    EXPECT_TRUE(made->wait_ended(0ms));
    EXPECT_NE(::access(path_.c_str(), F_OK), 0);
}

TEST_F(PageServerTest, DiesWithoutBeingClosed) {
    std::weak_ptr<PageServer> weak;
    {
        const auto made = server(source());
        weak = made;
        made->stop_listening();
    }
    EXPECT_TRUE(eventually([&] { return weak.expired(); }));
}

TEST_F(PageServerTest, FiftyMachinesGetTheirPages) {
    const auto made = server(source());
    std::vector<std::unique_ptr<Vmm>> machines;
    for (int i = 0; i < 50; ++i) {
        machines.push_back(std::make_unique<Vmm>());
        machines.back()->connect(path_);
        machines.back()->send();
    }
    ASSERT_TRUE(eventually([&] { return made->session_count() == 50; }));
    Crew crew;
    std::atomic<int> right{0};
    for (int worker = 0; worker < 4; ++worker) {
        crew.start([&, worker] {
            for (std::size_t i = static_cast<std::size_t>(worker); i < machines.size(); i += 4) {
                for (std::uint64_t page = 0; page < kGuestPages / 2; ++page) {
                    right += machines[i]->guest.holds_source(page) ? 1 : 0;
                }
            }
        });
    }
    crew.finish_or_die("fifty machines");
    EXPECT_EQ(right, 50 * static_cast<int>(kGuestPages) / 2);
    EXPECT_EQ(made->sessions().size(), 50U);
    drain_all(*made);
    EXPECT_TRUE(made->wait_ended(10s));
    EXPECT_EQ(made->ended_sessions().size(), 50U);
    EXPECT_TRUE(made->failures().empty()) << made->failures().front().text;
    made->close();
    for (const auto& machine : machines) {
        EXPECT_TRUE(machine->guest.holds_source(kGuestPages - 1));
    }
}

// The sessions end while their observer goes away: neither may find the other's remains.
TEST_F(PageServerTest, MayBeDestroyedWhileItsSessionsEnd) {
    for (int round = 0; round < 30; ++round) {
        Vmm first;
        Vmm second;
        auto made = server(source());
        std::vector<std::shared_ptr<PagerSession>> sessions;
        for (Vmm* vmm : {&first, &second}) {
            vmm->connect(path_);
            vmm->send();
        }
        ASSERT_TRUE(eventually([&] { return made->session_count() == 2; }));
        sessions = made->sessions();
        made->stop_listening();
        for (const auto& session : sessions) {
            session->drain(60'000'000'000);
        }
        std::this_thread::sleep_for(std::chrono::microseconds(round * 50));
        made.reset();
        for (const auto& session : sessions) {
            ASSERT_TRUE(session->wait_closed(20s));
        }
    }
}

TEST_F(PageServerTest, SessionsAreServedOnAfterTheServerIsClosed) {
    Vmm vmm;
    auto made = server(source());
    vmm.connect(path_);
    vmm.send();
    ASSERT_TRUE(eventually([&] { return made->session_count() == 1; }));
    const std::shared_ptr<PagerSession> session = made->sessions().front();
    made->close();
    made.reset();
    Crew crew;
    std::atomic<bool> right{false};
    crew.start([&] { right = vmm.guest.holds_source(3); });
    crew.finish_or_die("served on");
    EXPECT_TRUE(right);
    drain(session);
}

TEST_F(PageServerTest, ClosesAConnectionThatSaysNothingInTime) {
    const auto made = server(source());
    Vmm vmm;
    vmm.connect(path_);
    ASSERT_TRUE(eventually([&] { return !made->failures().empty(); }));
    EXPECT_EQ(made->failures().front().field, "handover_timeout");
    char byte = 0;
    EXPECT_EQ(::recv(vmm.socket.get(), &byte, 1, 0), 0);
    EXPECT_EQ(made->session_count(), 0U);
    made->close();
}

TEST_F(PageServerTest, StopsWithHalfDoneHandovers) {
    const auto made = server(source());
    std::vector<std::unique_ptr<Vmm>> machines;
    for (int i = 0; i < 5; ++i) {
        machines.push_back(std::make_unique<Vmm>());
        machines.back()->connect(path_);
    }
    made->close();
    for (const auto& machine : machines) {
        char byte = 0;
        EXPECT_LE(::recv(machine->socket.get(), &byte, 1, 0), 0);
    }
    EXPECT_EQ(made->session_count(), 0U);
}

TEST_F(PageServerTest, WaitsForASourceUntilOneIsProvided) {
    const auto made = server(nullptr);
    Vmm vmm;
    vmm.connect(path_);
    vmm.send();
    std::uint32_t waiting = 0;
    ASSERT_TRUE(eventually([&] {
        for (const ServerEvent& event : made->take_events()) {
            if (event.kind == SessionEventKind::needs_source) {
                waiting = event.session;
            }
        }
        return waiting != 0;
    }));
    EXPECT_FALSE(made->wait_ended(0ms));
    EXPECT_THROW(made->provide_source(waiting + 1, source()), ArgumentError);
    made->provide_source(waiting, source());
    EXPECT_THROW(made->provide_source(waiting, source()), ArgumentError);
    ASSERT_EQ(made->session_count(), 1U);
    drain_all(*made);
    EXPECT_TRUE(vmm.guest.holds_source(0));
    made->close();
}

// Descriptors run out while VMMs wait: the server says so, and takes them when there are some again.
TEST_F(PageServerTest, OutOfDescriptorsIsReportedAndSurvived) {
    const auto made = server(source());
    Vmm vmm;
    vmm.socket = UniqueFd(check_errno(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket"));
    {
        const DescriptorLimit low(256);
        std::vector<UniqueFd> hoard;
        for (;;) {
            UniqueFd fd(::dup(0));
            if (!fd) {
                break;
            }
            hoard.push_back(std::move(fd));
        }
        const UnixAddress address = UnixAddress::of(path_);
        check_errno(::connect(vmm.socket.get(), address.get(), address.length()), "connect");
        EXPECT_TRUE(eventually([&] { return !made->failures().empty(); }));
        EXPECT_EQ(made->failures().front().field, "descriptors");
    }
    vmm.send();
    EXPECT_TRUE(eventually([&] { return made->session_count() == 1; }));
    drain_all(*made);
    made->close();
}

}  // namespace
}  // namespace vmthaw
