#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/fork_guard.hpp"
#include "source/page_source.hpp"
#include "source/socket/socket_address.hpp"

namespace vmthaw {

struct PageConnectionOptions {
    std::uint64_t page_size = 4096;
    std::size_t max_in_flight = 128;
    std::uint64_t timeout_ns = 10'000'000'000;
};

struct PageConnectionStats {
    std::uint64_t pages = 0;
    std::uint64_t repeated = 0;     // requests asked again after a connection was lost
    std::uint64_t connections = 0;  // that came about
    std::uint64_t lost = 0;         // that ended before close()
};

// One connection to a page server, shared by any number of readers. It has no thread: the reader who finds nobody at it
// drives it for all, and hands it on when its own pages are there, so that a single fault costs no switch of threads.
// A connection that is lost is made again, with growing pauses, and what was unanswered is asked again.
// In a forked child every call answers `closed`, and destruction touches no lock.
class PageConnection {
public:
    PageConnection(std::vector<ResolvedAddress> addresses, const PageConnectionOptions& options);
    PageConnection(const PageConnection&) = delete;
    PageConnection& operator=(const PageConnection&) = delete;
    PageConnection(PageConnection&&) = delete;
    PageConnection& operator=(PageConnection&&) = delete;
    ~PageConnection();

    // One attempt, before the first read: 0 or the errno. Blocks for two seconds at most.
    [[nodiscard]] int connect() noexcept;
    // Blocks. Both page-aligned, not empty. io_error: ETIMEDOUT when no page came for the time-out, EPROTO after a
    // wrong echo, EREMOTEIO when the server cannot read the page, otherwise what kept us from connecting.
    [[nodiscard]] ReadResult read(std::uint64_t ipa, std::span<std::byte> out) noexcept;
    // Ends all reads, now and later. Idempotent.
    void close() noexcept;

    // Readers that wait here; without a lock.
    [[nodiscard]] std::size_t load() const noexcept { return load_.load(std::memory_order_relaxed); }
    [[nodiscard]] PageConnectionStats stats() const;
    // What went wrong last, for messages; "" when nothing did.
    [[nodiscard]] std::string last_problem() const;

private:
    struct State;
    std::unique_ptr<State> state_;
    std::atomic<std::size_t> load_{0};
    ForkGuard fork_guard_;
};

}  // namespace vmthaw
