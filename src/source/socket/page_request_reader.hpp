#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "source/socket/page_wire.hpp"

namespace vmthaw {

// What an exporter gives out, and in what pieces.
struct ExportLimits {
    std::uint64_t start = 0;
    std::uint64_t size = 0;
    std::uint64_t max_page_size = std::uint64_t{2} << 20U;
};

// A run of requests that one read of the source answers: their pages are neighbours, in order.
struct RequestRun {
    std::span<const PageRequest> requests;
    std::uint64_t bytes = 0;        // of all pages
    const char* problem = nullptr;  // not null: this one request is refused, and why, as the end of a sentence
};

// The server's side of the page-server wire without its socket: cuts a hostile client's bytes into requests, checks
// each and puts neighbours together. Bounded; allocates at construction only. One thread at a time.
class PageRequestReader {
public:
    PageRequestReader(const ExportLimits& limits, std::size_t max_requests);

    // Where the next bytes belong. Not empty once take_run() gave everything.
    [[nodiscard]] std::span<std::byte> room() noexcept;
    void received(std::size_t bytes) noexcept;
    // The next requests, at most `max_bytes` of pages but at least one request; no requests when none is complete. The
    // span is valid until received().
    [[nodiscard]] RequestRun take_run(std::uint64_t max_bytes) noexcept;
    // True between the first and the last byte of a request.
    [[nodiscard]] bool is_inside_request() const noexcept { return bytes_in_ > 0; }

private:
    [[nodiscard]] const char* problem_of(const PageRequest& request) const noexcept;

    ExportLimits limits_;
    std::vector<std::byte> bytes_;
    std::size_t bytes_in_ = 0;
    std::vector<PageRequest> requests_;
    std::size_t taken_ = 0;
};

}  // namespace vmthaw
