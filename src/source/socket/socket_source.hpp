#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "source/known_extents.hpp"
#include "source/page_source.hpp"
#include "source/socket/page_connection.hpp"
#include "source/socket/socket_address.hpp"

namespace vmthaw {

struct SocketSourceOptions {
    std::uint64_t ram_start = 0;      // the first guest-physical address that the server has
    std::uint64_t page_size = 4096;   // of one request: a power of two from 4096 to 1 GiB
    std::size_t connections = 4;      // at most; made when they are needed
    std::size_t max_in_flight = 128;  // requests on one connection
    std::uint64_t timeout_ns = 10'000'000'000;
    std::vector<Extent> extents{};  // what is data and what zeros, from ram_start on; none: all is data
};

// Memory that a page server has (squib's wire): offsets are what goes over it as guest-physical addresses. Reads become
// requests of one page each, many in flight; a read finds a connection where nobody waits, as long as there is one, so
// that a page the server is slow with holds up few others. What fails and when is said at PageConnection.
// Thread-safe, with no thread of its own. The constructor connects: Error(SourceOpenError) or ArgumentError.
class SocketSource final : public PageSource {
public:
    SocketSource(const SocketAddress& address, std::uint64_t size, const SocketSourceOptions& options = {});

    [[nodiscard]] std::uint64_t start() const noexcept override { return options_.ram_start; }
    [[nodiscard]] std::uint64_t size() const noexcept override { return size_; }
    // To the end of the 4 KiB page that holds the last byte.
    [[nodiscard]] bool covers(std::uint64_t offset, std::uint64_t size) const noexcept override;
    // The wire has no word for zeros: what the options do not say to be zeros is data.
    [[nodiscard]] Extent extent_at(std::uint64_t offset, std::uint64_t limit) const noexcept override {
        return extents_.at(offset, limit);
    }
    // Zeros are never asked for.
    [[nodiscard]] ReadResult read(std::uint64_t offset, std::span<std::byte> out) noexcept override;
    [[nodiscard]] ReadResult prepare(std::uint64_t offset, std::uint64_t size) noexcept override;
    [[nodiscard]] ReadResult still_whole() const noexcept override;
    [[nodiscard]] std::vector<Extent> extents() const override { return extents_.all(); }
    [[nodiscard]] SourceTier tier(std::uint64_t /*offset*/) const noexcept override { return SourceTier::network; }
    [[nodiscard]] std::string description() const override { return address_.text(); }
    [[nodiscard]] std::string remedy(const ReadResult& result) const override;
    void close() noexcept override;

    [[nodiscard]] const SocketAddress& address() const noexcept { return address_; }
    [[nodiscard]] const SocketSourceOptions& options() const noexcept { return options_; }
    // The sum over the connections.
    [[nodiscard]] PageConnectionStats stats() const;

private:
    [[nodiscard]] ReadResult check(std::uint64_t offset, std::uint64_t size) const noexcept;
    [[nodiscard]] PageConnection& least_busy() const noexcept;
    [[nodiscard]] ReadResult ask(std::uint64_t offset, std::span<std::byte> out) noexcept;
    [[nodiscard]] ReadResult read_part_of_page(std::uint64_t offset, std::span<std::byte> out) noexcept;

    SocketAddress address_;
    std::uint64_t size_;
    SocketSourceOptions options_;
    KnownExtents extents_;
    std::vector<std::unique_ptr<PageConnection>> connections_;
    std::atomic<bool> closed_{false};
};

}  // namespace vmthaw
