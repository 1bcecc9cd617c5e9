#pragma once

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/event_fd.hpp"
#include "base/unix_listener.hpp"
#include "source/socket/page_wire.hpp"
#include "source/socket/socket_address.hpp"
#include "source_support.hpp"

namespace vmthaw::source_tests {

inline SocketAddress fresh_address() {
    static std::atomic<int> number{0};
    return SocketAddress::parse("unix:@vmthaw-test-" + std::to_string(::getpid()) + "-" + std::to_string(++number));
}

// A client's connection as a scripted server sees it: blocking, but for the end of the test.
class Peer {
public:
    Peer(UniqueFd fd, const EventFd& end) : fd_(std::move(fd)), end_(end) {}

    // False: the client closed, or the test is over.
    bool receive(std::span<std::byte> bytes) const {
        while (!bytes.empty()) {
            std::vector<pollfd> waited{{fd_.get(), POLLIN, 0}, {end_.fd(), POLLIN, 0}};
            if (::poll(waited.data(), waited.size(), -1) < 0 || waited[1].revents != 0) {
                return false;
            }
            const ssize_t got = ::recv(fd_.get(), bytes.data(), bytes.size(), 0);
            if (got <= 0) {
                return false;
            }
            bytes = bytes.subspan(static_cast<std::size_t>(got));
        }
        return true;
    }
    bool receive(PageRequest& request) const {
        PageRequestBytes bytes{};
        const bool is_whole = receive(bytes);
        request = decode(bytes);
        return is_whole;
    }
    void send(std::span<const std::byte> bytes) const {
        while (!bytes.empty()) {
            std::vector<pollfd> waited{{fd_.get(), POLLOUT, 0}, {end_.fd(), POLLIN, 0}};
            if (::poll(waited.data(), waited.size(), -1) < 0 || waited[1].revents != 0) {
                return;
            }
            const ssize_t sent = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
            if (sent <= 0) {
                return;
            }
            bytes = bytes.subspan(static_cast<std::size_t>(sent));
        }
    }
    // The right answer.
    void answer(const PageRequest& request) const { answer(request, request); }
    void answer(const PageRequest& echo, const PageRequest& page) const {
        send(encode(echo));
        send(bytes_at(page.ipa, page.page_size));
    }
    // Until the client goes or the test is over.
    void wait() const {
        std::byte byte{};
        while (receive({&byte, 1})) {
        }
    }

private:
    UniqueFd fd_;
    const EventFd& end_;
};

// A page server whose n-th connection (from 0) does what a script says, each on a thread of its own.
class ScriptedServer {
public:
    using Script = std::function<void(const Peer&, int)>;
    explicit ScriptedServer(Script script, const SocketAddress& address = fresh_address())
        : address_(address), script_(std::move(script)), listener_(UnixListener::create(address.path())) {
        thread_ = std::thread([this] { run(); });
    }
    ScriptedServer(const ScriptedServer&) = delete;
    ScriptedServer& operator=(const ScriptedServer&) = delete;
    ~ScriptedServer() {
        end_.signal();
        thread_.join();
    }
    [[nodiscard]] const SocketAddress& address() const { return address_; }
    [[nodiscard]] int connections() const { return connections_.load(); }

private:
    void run() {
        std::vector<std::thread> peers;
        for (;;) {
            std::vector<pollfd> waited{{listener_.fd(), POLLIN, 0}, {end_.fd(), POLLIN, 0}};
            ::poll(waited.data(), waited.size(), -1);
            if (waited[1].revents != 0) {
                break;
            }
            AcceptOutcome outcome = listener_.accept();
            if (outcome.status == AcceptStatus::accepted) {
                peers.emplace_back(
                    [this, number = connections_.fetch_add(1), socket = std::move(outcome.socket)]() mutable {
                        const Peer peer(std::move(socket), end_);
                        script_(peer, number);
                    });
            }
        }
        for (std::thread& peer : peers) {
            peer.join();
        }
    }

    SocketAddress address_;
    Script script_;
    UnixListener listener_;
    EventFd end_;
    std::atomic<int> connections_{0};
    std::thread thread_;
};

}  // namespace vmthaw::source_tests
