#include "source/socket/socket_source.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <system_error>

#include "base/error.hpp"
#include "base/page.hpp"
#include "source/socket/page_wire.hpp"

namespace vmthaw {
namespace {

constexpr std::size_t kMostConnections = 64;
constexpr std::size_t kMostInFlight = 4096;

const SocketSourceOptions& checked_options(std::uint64_t size, const SocketSourceOptions& options) {
    if (size == 0) {
        throw ArgumentError(
            "a source of 0 bytes serves nothing: the wire has no hello, so give the size of the memory");
    }
    if (!std::has_single_bit(options.page_size) || options.page_size < kPageBytes ||
        options.page_size > kMaxWirePageSize) {
        throw ArgumentError("page_size must be a power of two from 4096 to 1 GiB, not " +
                            std::to_string(options.page_size));
    }
    if (options.ram_start % kPageBytes != 0 || options.ram_start > ~std::uint64_t{0} - size - kPageBytes) {
        throw ArgumentError("ram_start " + hex(options.ram_start) +
                            " must be a multiple of 4096, and the memory end within 64 bits");
    }
    if (options.connections == 0 || options.connections > kMostConnections) {
        throw ArgumentError("connections must be from 1 to 64, not " + std::to_string(options.connections));
    }
    if (options.max_in_flight == 0 || options.max_in_flight > kMostInFlight) {
        throw ArgumentError("max_in_flight must be from 1 to 4096, not " + std::to_string(options.max_in_flight));
    }
    if (options.timeout_ns == 0) {
        throw ArgumentError("the time-out of a source must be more than 0 seconds");
    }
    return options;
}

}  // namespace

SocketSource::SocketSource(const SocketAddress& address, std::uint64_t size, const SocketSourceOptions& options)
    : address_(address),
      size_(size),
      options_(checked_options(size, options)),
      extents_(options.extents, options.ram_start, size) {
    std::vector<ResolvedAddress> addresses;
    try {
        addresses = address.resolve();
    } catch (const SystemError& error) {
        throw Error(error.what(), "SourceOpenError",
                    {{"path", address.text()}, {"errno", static_cast<std::int64_t>(error.errno_value())}});
    }
    const PageConnectionOptions each{options.page_size, options.max_in_flight, options.timeout_ns};
    for (std::size_t i = 0; i < options.connections; ++i) {
        connections_.push_back(std::make_unique<PageConnection>(addresses, each));
    }
    if (const int problem = connections_.front()->connect(); problem != 0) {
        throw Error("connecting to the page server at " + address.text() + ": " +
                        std::generic_category().message(problem) +
                        "; start one there (vmthaw export), and see that its socket may be reached from here",
                    "SourceOpenError", {{"path", address.text()}, {"errno", static_cast<std::int64_t>(problem)}});
    }
}

bool SocketSource::covers(std::uint64_t offset, std::uint64_t size) const noexcept {
    const std::uint64_t end = round_up(size_, kPageBytes);
    return offset >= start() && offset - start() <= end && size <= end - (offset - start());
}

ReadResult SocketSource::check(std::uint64_t offset, std::uint64_t size) const noexcept {
    if (closed_.load(std::memory_order_relaxed) || inherited()) {
        return {.status = ReadStatus::closed};
    }
    return {.status = covers(offset, size) ? ReadStatus::ok : ReadStatus::out_of_range};
}

PageConnection& SocketSource::least_busy() const noexcept {
    PageConnection* best = connections_.front().get();
    std::size_t least = best->load();
    for (const auto& connection : connections_) {
        if (const std::size_t load = connection->load(); load < least) {
            best = connection.get();
            least = load;
        }
    }
    return *best;
}

ReadResult SocketSource::read(std::uint64_t offset, std::span<std::byte> out) noexcept {
    ReadResult result = check(offset, out.size());
    while (result.ok() && !out.empty()) {
        Extent extent = extents_.at(offset, out.size());
        if (extent.offset + extent.size == start() + size_) {
            extent.size = out.size();  // the rest of the last page is of the kind of what is before it
        }
        const auto part = out.first(extent.size);
        if (extent.kind == ExtentKind::zero) {
            std::fill(part.begin(), part.end(), std::byte{0});
        } else {
            result = ask(offset, part);
        }
        offset += part.size();
        out = out.subspan(part.size());
    }
    return result;
}

ReadResult SocketSource::ask(std::uint64_t offset, std::span<std::byte> out) noexcept {
    ReadResult result;
    while (result.ok() && !out.empty()) {
        const std::uint64_t into_page = offset % kPageBytes;
        std::uint64_t size = out.size() & ~(kPageBytes - 1);
        if (into_page != 0 || size == 0) {
            size = std::min<std::uint64_t>(out.size(), kPageBytes - into_page);
            result = read_part_of_page(offset, out.first(size));
        } else {
            result = least_busy().read(offset, out.first(size));
        }
        offset += size;
        out = out.subspan(size);
    }
    return result;
}

ReadResult SocketSource::read_part_of_page(std::uint64_t offset, std::span<std::byte> out) noexcept {
    std::array<std::byte, kPageBytes> page;  // NOLINT(cppcoreguidelines-pro-type-member-init): read() fills it
    const std::uint64_t into_page = offset % kPageBytes;
    const ReadResult result = least_busy().read(offset - into_page, page);
    if (result.ok()) {
        std::copy_n(page.begin() + static_cast<std::ptrdiff_t>(into_page), out.size(), out.begin());
    }
    return result;
}

ReadResult SocketSource::prepare(std::uint64_t offset, std::uint64_t size) noexcept { return check(offset, size); }

ReadResult SocketSource::still_whole() const noexcept { return check(start(), 0); }

std::string SocketSource::remedy(const ReadResult& result) const {
    if (result.status != ReadStatus::io_error) {
        return {};
    }
    std::string problem;
    for (const auto& connection : connections_) {
        if (problem.empty()) {
            problem = connection->last_problem();
        }
    }
    switch (result.errno_value) {
        case EPROTO:
            return problem + ": no page server, or one for another memory, listens there; the connection was dropped";
        case EREMOTEIO:
            return problem + ": look into its log, and whether the memory has that address (ram_start, size)";
        case ETIMEDOUT:
            return "no answer for " + std::to_string(options_.timeout_ns / 1'000'000) +
                   " ms: see what holds the server up, or give it a longer timeout";
        default:
            return "connecting again has failed for " + std::to_string(options_.timeout_ns / 1'000'000) +
                   " ms: start the server again, or mend the way to it";
    }
}

PageConnectionStats SocketSource::stats() const {
    PageConnectionStats sum;
    for (const auto& connection : connections_) {
        const PageConnectionStats one = connection->stats();
        sum.pages += one.pages;
        sum.repeated += one.repeated;
        sum.connections += one.connections;
        sum.lost += one.lost;
    }
    return sum;
}

void SocketSource::close() noexcept {
    closed_.store(true, std::memory_order_relaxed);
    if (inherited()) {
        return;
    }
    for (const auto& connection : connections_) {
        connection->close();
    }
}

}  // namespace vmthaw
