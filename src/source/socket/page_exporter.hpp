#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include "base/fork_guard.hpp"
#include "source/page_source.hpp"
#include "source/socket/socket_address.hpp"

namespace vmthaw {

struct PageExporterOptions {
    std::uint64_t max_page_size = std::uint64_t{2} << 20U;
    std::size_t max_clients = 64;
    std::uint64_t send_timeout_ns = 30'000'000'000;
    std::uint64_t idle_timeout_ns = 600'000'000'000;
    mode_t mode = 0600;  // of a UNIX socket
};

struct PageExporterStats {
    std::uint64_t clients = 0;  // now
    std::uint64_t accepted = 0;
    std::uint64_t turned_away = 0;
    std::uint64_t pages = 0;
    std::uint64_t bytes = 0;
    std::uint64_t bad_requests = 0;
    std::uint64_t source_errors = 0;
    std::uint64_t slow_clients = 0;
};

// Serves a source to other processes and hosts (squib's wire): the other side of SocketSource. One thread accepts, one
// more serves each client. The wire knows no authentication: a UNIX socket has its mode, a TCP port has nothing.
// The constructor listens; it throws ArgumentError or SystemError. Thread-safe; inert in a forked child.
class PageExporter {
public:
    PageExporter(std::shared_ptr<PageSource> source, const SocketAddress& address,
                 const PageExporterOptions& options = {});
    PageExporter(const PageExporter&) = delete;
    PageExporter& operator=(const PageExporter&) = delete;
    PageExporter(PageExporter&&) = delete;
    PageExporter& operator=(PageExporter&&) = delete;
    ~PageExporter();

    // With the port that the kernel chose for port 0.
    [[nodiscard]] const SocketAddress& address() const noexcept { return address_; }
    [[nodiscard]] PageExporterStats stats() const;
    [[nodiscard]] bool closed() const;
    // Stops listening, drops the clients and waits for their threads; the source stays open. False when one is still
    // inside the source after `patience`: it ends when that answers (close the source to hasten it). Idempotent.
    bool close(std::chrono::milliseconds patience = std::chrono::milliseconds(2000)) noexcept;
    [[nodiscard]] bool inherited() const noexcept { return fork_guard_.inherited(); }

private:
    struct State;
    std::shared_ptr<State> state_;  // shared with the clients' threads
    SocketAddress address_;
    std::thread acceptor_;
    ForkGuard fork_guard_;
};

}  // namespace vmthaw
