#include "source/socket/exporter_client.hpp"

#include <poll.h>

#include <algorithm>
#include <array>
#include <exception>
#include <string>
#include <utility>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "base/log.hpp"

namespace vmthaw {
namespace {

constexpr std::size_t kRequestsAtOnce = 128;
constexpr std::uint64_t kRunBytes = 256U << 10U;  // one read of the source, where requests are neighbours
constexpr std::uint64_t kLinger_ns = 1'000'000'000;

}  // namespace

ExporterClient::ExporterClient(StreamSocket socket, PageSource& source, const ExporterClientOptions& options,
                               ExporterCounters& counters)
    : socket_(std::move(socket)),
      source_(source),
      options_(options),
      counters_(counters),
      reader_(options.limits, kRequestsAtOnce),
      headers_(kRequestsAtOnce) {
    vectors_.reserve(2 * kRequestsAtOnce);
}

void ExporterClient::stop() noexcept {
    stopping_.store(true, std::memory_order_relaxed);
    wake_.signal();
}

void ExporterClient::run() noexcept {
    try {
        while (!is_stopping() && serve_requests() == Next::more) {
        }
    } catch (const std::exception& error) {  // no memory for a page
        log_line(LogLevel::error, "exporter", error.what());
    }
    socket_.close();
}

ExporterClient::Next ExporterClient::serve_requests() {
    const bool is_inside = reader_.is_inside_request();
    const TransferOutcome got = socket_.receive(reader_.room());
    if (got.would_block()) {
        // A request that never ends is no idleness.
        const std::uint64_t patience_ns = is_inside ? options_.send_timeout_ns : options_.idle_timeout_ns;
        const std::uint64_t give_up_ns = deadline_ns(patience_ns);
        while (wait_for(socket_.fd(), POLLIN, wake_, give_up_ns - std::min(give_up_ns, monotonic_ns())) == 0) {
            if (is_stopping() || monotonic_ns() >= give_up_ns) {
                return Next::end;
            }
        }
        return Next::more;
    }
    if (got.bytes == 0) {
        return Next::end;  // closed or broken
    }
    reader_.received(got.bytes);
    for (RequestRun run = reader_.take_run(kRunBytes); !run.requests.empty(); run = reader_.take_run(kRunBytes)) {
        if (is_stopping() || answer(run) == Next::end) {
            return Next::end;
        }
    }
    return Next::more;
}

ExporterClient::Next ExporterClient::answer(const RequestRun& run) {
    const PageRequest& first = run.requests.front();
    if (run.problem != nullptr) {
        counters_.bad_requests.fetch_add(1, std::memory_order_relaxed);
        return refuse(first, run.problem);
    }
    if (pages_.size() < run.bytes) {
        pages_.resize(std::max(run.bytes, kRunBytes));
    }
    if (read_pages(first.ipa, std::span(pages_).first(run.bytes)).ok()) {
        return send_pages(run.requests);
    }
    // One of them cannot be read: the others can.
    for (const PageRequest& request : run.requests) {
        const ReadResult result = read_pages(request.ipa, std::span(pages_).first(request.page_size));
        if (!result.ok()) {
            counters_.source_errors.fetch_add(1, std::memory_order_relaxed);
            try {
                throw_read_error(source_, request.ipa, request.page_size, result);
            } catch (const Error& error) {
                return refuse(request, error.what());
            }
        }
        if (send_pages({&request, 1}) == Next::end) {
            return Next::end;
        }
    }
    return Next::more;
}

// With zeros behind the memory's end, in its last 4 KiB page.
ReadResult ExporterClient::read_pages(std::uint64_t ipa, std::span<std::byte> out) noexcept {
    const std::uint64_t left = options_.limits.size - (ipa - options_.limits.start);
    const auto inside = out.first(std::min<std::uint64_t>(out.size(), left));
    std::fill(out.begin() + static_cast<std::ptrdiff_t>(inside.size()), out.end(), std::byte{0});
    return source_.read(ipa, inside);
}

ExporterClient::Next ExporterClient::send_pages(std::span<const PageRequest> requests) {
    std::uint64_t at = 0;
    vectors_.clear();
    for (std::size_t i = 0; i < requests.size(); ++i) {
        headers_[i] = encode(requests[i]);
        vectors_.push_back({headers_[i].data(), headers_[i].size()});
        vectors_.push_back({pages_.data() + at, requests[i].page_size});
        at += requests[i].page_size;
    }
    const Next next = send_all(vectors_);
    if (next == Next::more) {
        counters_.pages.fetch_add(requests.size(), std::memory_order_relaxed);
        counters_.bytes.fetch_add(at, std::memory_order_relaxed);
    }
    return next;
}

ExporterClient::Next ExporterClient::send_all(std::span<iovec> vectors) noexcept {
    std::uint64_t give_up_ns = deadline_ns(options_.send_timeout_ns);
    for (;;) {
        while (!vectors.empty() && vectors.front().iov_len == 0) {
            vectors = vectors.subspan(1);
        }
        if (vectors.empty()) {
            return Next::more;
        }
        const TransferOutcome outcome = socket_.send(vectors);
        if (outcome.bytes > 0) {
            give_up_ns = deadline_ns(options_.send_timeout_ns);
            continue;
        }
        if (!outcome.would_block() || is_stopping()) {
            return Next::end;
        }
        const std::uint64_t now_ns = monotonic_ns();
        if (now_ns >= give_up_ns) {
            counters_.slow_clients.fetch_add(1, std::memory_order_relaxed);
            log_line(LogLevel::warning, "exporter",
                     "a client was dropped: it did not take the pages that it asked for");
            return Next::end;
        }
        static_cast<void>(wait_for(socket_.fd(), POLLOUT, wake_, give_up_ns - now_ns));
    }
}

// A client that does not know what this means sees a wrong echo, and an end. What it sent meanwhile is read, because a
// close with bytes unread takes the reply away from it (TCP).
ExporterClient::Next ExporterClient::refuse(const PageRequest& request, const char* why) {
    log_line(LogLevel::warning, "exporter",
             "a request for " + std::to_string(request.page_size) + " bytes at " + hex(request.ipa) +
                 " was refused and its connection dropped: " + why);
    PageRequestBytes bytes = encode({request.ipa, kRefusedPageSize});
    iovec vector{bytes.data(), bytes.size()};
    if (send_all({&vector, 1}) == Next::more) {
        socket_.shut_down_sending();
        const std::uint64_t end_ns = deadline_ns(kLinger_ns);
        std::array<std::byte, 4096> unread{};
        while (!is_stopping() && monotonic_ns() < end_ns) {
            const TransferOutcome got = socket_.receive(unread);
            if (got.would_block()) {
                static_cast<void>(wait_for(socket_.fd(), POLLIN, wake_, end_ns - std::min(end_ns, monotonic_ns())));
            } else if (got.bytes == 0) {
                break;
            }
        }
    }
    return Next::end;
}

}  // namespace vmthaw
