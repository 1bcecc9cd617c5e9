#pragma once

#include <sys/uio.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/event_fd.hpp"
#include "source/page_source.hpp"
#include "source/socket/page_request_reader.hpp"
#include "source/socket/stream_socket.hpp"

namespace vmthaw {

// What all clients of an exporter have done so far. Any thread.
struct ExporterCounters {
    std::atomic<std::uint64_t> accepted{0};
    std::atomic<std::uint64_t> turned_away{0};  // too many clients, or no thread for one
    std::atomic<std::uint64_t> pages{0};
    std::atomic<std::uint64_t> bytes{0};
    std::atomic<std::uint64_t> bad_requests{0};
    std::atomic<std::uint64_t> source_errors{0};
    std::atomic<std::uint64_t> slow_clients{0};  // dropped: they did not take their pages
};

struct ExporterClientOptions {
    ExportLimits limits;
    std::uint64_t send_timeout_ns = 30'000'000'000;
    std::uint64_t idle_timeout_ns = 600'000'000'000;
};

// One client of an exporter, on a thread of its own: reads requests, reads the source, writes replies in order.
// Whatever the client or the source does holds up this client alone. run() ends when the client goes, breaks the rules
// or takes nothing for too long, or after stop().
class ExporterClient {
public:
    ExporterClient(StreamSocket socket, PageSource& source, const ExporterClientOptions& options,
                   ExporterCounters& counters);

    void run() noexcept;
    void stop() noexcept;  // any thread

private:
    enum class Next : std::uint8_t { more, end };

    [[nodiscard]] Next serve_requests();
    [[nodiscard]] Next answer(const RequestRun& run);
    [[nodiscard]] Next send_pages(std::span<const PageRequest> requests);
    [[nodiscard]] Next send_all(std::span<iovec> vectors) noexcept;
    [[nodiscard]] Next refuse(const PageRequest& request, const char* why);
    [[nodiscard]] ReadResult read_pages(std::uint64_t ipa, std::span<std::byte> out) noexcept;
    [[nodiscard]] bool is_stopping() const noexcept { return stopping_.load(std::memory_order_relaxed); }

    StreamSocket socket_;
    PageSource& source_;
    const ExporterClientOptions options_;
    ExporterCounters& counters_;
    PageRequestReader reader_;
    std::vector<std::byte> pages_;
    std::vector<PageRequestBytes> headers_;
    std::vector<iovec> vectors_;
    EventFd wake_;
    std::atomic<bool> stopping_{false};
};

}  // namespace vmthaw
