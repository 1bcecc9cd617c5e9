#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/event_fd.hpp"
#include "source/socket/page_connection.hpp"
#include "source/socket/reconnect_pace.hpp"
#include "source/socket/reply_pipeline.hpp"
#include "source/socket/stream_socket.hpp"

namespace vmthaw {

// What the readers of a connection share, and what the one who leads does. Everything is guarded by the lock; lead()
// and what it calls let go of it while they wait or receive.
struct PageConnection::State {
    enum class Link : std::uint8_t { down, connecting, up };

    State(std::vector<ResolvedAddress> where, const PageConnectionOptions& how)
        : addresses(std::move(where)), options(how), pipeline(how.page_size, how.max_in_flight), pace(how.timeout_ns) {}

    void lead(std::unique_lock<std::mutex>& lock, const PageRead& own);
    void begin_connect(std::uint64_t now_ns) noexcept;
    void finish_connect(int errno_value) noexcept;
    void wait_to_connect(std::unique_lock<std::mutex>& lock, std::uint64_t now_ns);
    void exchange(std::unique_lock<std::mutex>& lock, std::uint64_t now_ns);
    void send_requests() noexcept;
    void take_replies(const TransferOutcome& got);
    void drop(int errno_value);
    void expire(std::uint64_t now_ns);
    [[nodiscard]] std::uint64_t patience_ns(std::uint64_t now_ns) const noexcept;
    // A read gives up when neither its beginning nor any page is younger than the time-out.
    [[nodiscard]] std::uint64_t give_up_ns(const PageRead& read) const noexcept {
        return std::max(read.start_ns, progress_ns) + options.timeout_ns;
    }
    [[nodiscard]] bool is_expired(const PageRead& read, std::uint64_t now_ns) const noexcept {
        return now_ns >= give_up_ns(read);
    }

    const std::vector<ResolvedAddress> addresses;
    const PageConnectionOptions options;
    EventFd wake;  // for the poll of whoever leads
    mutable std::mutex mutex;
    ReplyPipeline pipeline;
    StreamSocket socket;  // changed by the leader only
    Link link = Link::down;
    ReconnectPace pace;
    std::size_t next_address = 0;
    std::uint64_t attempt_ns = 0;   // when the attempt to connect began
    std::uint64_t progress_ns = 0;  // when the last page came
    int link_errno = 0;             // why there is no connection
    int send_errno = 0;             // of a reader that does not lead: the leader drops the connection
    bool full_receive = false;      // there may be more without waiting
    bool closed = false;
    bool led = false;
    std::string problem;
    PageConnectionStats counters;
};

}  // namespace vmthaw
