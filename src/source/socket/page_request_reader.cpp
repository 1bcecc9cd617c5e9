#include "source/socket/page_request_reader.hpp"

#include <algorithm>
#include <bit>

#include "base/page.hpp"

namespace vmthaw {

PageRequestReader::PageRequestReader(const ExportLimits& limits, std::size_t max_requests)
    : limits_(limits), bytes_(max_requests * kPageRequestBytes) {
    requests_.reserve(max_requests);
}

std::span<std::byte> PageRequestReader::room() noexcept { return std::span(bytes_).subspan(bytes_in_); }

void PageRequestReader::received(std::size_t bytes) noexcept {
    bytes_in_ += bytes;
    requests_.clear();
    taken_ = 0;
    std::size_t at = 0;
    for (; bytes_in_ - at >= kPageRequestBytes; at += kPageRequestBytes) {
        requests_.push_back(decode(std::span(bytes_).subspan(at).first<kPageRequestBytes>()));
    }
    std::copy(bytes_.begin() + static_cast<std::ptrdiff_t>(at), bytes_.begin() + static_cast<std::ptrdiff_t>(bytes_in_),
              bytes_.begin());
    bytes_in_ -= at;
}

const char* PageRequestReader::problem_of(const PageRequest& request) const noexcept {
    if (!std::has_single_bit(request.page_size) || request.page_size < kPageBytes) {
        return "page_size is no power of two from 4096 on";
    }
    if (request.page_size > limits_.max_page_size) {
        return "page_size is larger than the exporter's max_page_size";
    }
    if (request.ipa % kPageBytes != 0) {
        return "ipa is no multiple of 4096";
    }
    if (request.ipa < limits_.start || request.ipa - limits_.start >= limits_.size) {
        return "ipa is outside the memory";
    }
    // What lies behind the end in the last 4 KiB page is zeros; a larger page would be mostly that.
    const std::uint64_t left = round_up(limits_.size - (request.ipa - limits_.start), kPageBytes);
    return request.page_size > left ? "the page ends outside the memory" : nullptr;
}

RequestRun PageRequestReader::take_run(std::uint64_t max_bytes) noexcept {
    const std::span<const PageRequest> left = std::span(requests_).subspan(taken_);
    if (left.empty()) {
        return {};
    }
    RequestRun run{left.first(1), left.front().page_size, problem_of(left.front())};
    std::size_t count = 1;
    while (run.problem == nullptr && count < left.size()) {
        const PageRequest& next = left[count];
        if (next.ipa != left.front().ipa + run.bytes || problem_of(next) != nullptr || run.bytes >= max_bytes ||
            next.page_size > max_bytes - run.bytes) {
            break;
        }
        run.bytes += next.page_size;
        ++count;
    }
    run.requests = left.first(count);
    taken_ += count;
    return run;
}

}  // namespace vmthaw
