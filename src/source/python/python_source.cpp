#include "source/python/python_source.hpp"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/error.hpp"
#include "base/page.hpp"

namespace vmthaw {
namespace {

std::uint64_t checked_size(std::uint64_t size) {
    if (size == 0) {
        throw ArgumentError("a source of 0 bytes serves nothing: give the size of the memory in bytes");
    }
    return size;
}

}  // namespace

PythonSource::PythonSource(std::uint64_t size, const std::vector<Extent>& extents, std::string name,
                           std::chrono::milliseconds timeout, std::size_t max_queued)
    : size_(checked_size(size)),
      extents_(extents, 0, size),
      name_(std::move(name)),
      requests_(std::make_shared<RequestQueue>(max_queued, timeout)) {}

bool PythonSource::covers(std::uint64_t offset, std::uint64_t size) const noexcept {
    const std::uint64_t room = size_ - std::min(offset, size_);
    const std::uint64_t behind_end = round_up(size_, kPageBytes) - size_;
    return offset <= size_ && (size <= room || size - room <= behind_end);
}

ReadResult PythonSource::check(std::uint64_t offset, std::uint64_t size) const noexcept {
    if (closed_.load(std::memory_order_relaxed) || inherited()) {
        return {.status = ReadStatus::closed};
    }
    const std::uint64_t room = size_ - std::min(offset, size_);
    // Zeros as long as the last page asked for starts before the end.
    const bool is_served = size <= room || size - std::min(size, page_spoken_of(size)) < room;
    return {.status = offset <= size_ && is_served ? ReadStatus::ok : ReadStatus::out_of_range};
}

ReadResult PythonSource::read(std::uint64_t offset, std::span<std::byte> out) noexcept {
    const ReadResult result = check(offset, out.size());
    if (!result.ok()) {
        return result;
    }
    const auto behind_end = out.subspan(std::min<std::uint64_t>(out.size(), size_ - offset));
    std::fill(behind_end.begin(), behind_end.end(), std::byte{0});
    out = out.first(out.size() - behind_end.size());
    std::uint64_t done = 0;
    while (done < out.size()) {
        const Extent extent = extent_at(offset + done, out.size() - done);
        const auto part = out.subspan(done, extent.size);
        if (extent.kind == ExtentKind::zero) {
            std::fill(part.begin(), part.end(), std::byte{0});
        } else {
            ReadResult answer = requests_->ask(extent.offset, part);
            if (!answer.ok()) {
                answer.got_bytes += done;
                return answer;
            }
        }
        done += extent.size;
    }
    return result;
}

bool PythonSource::ready(std::uint64_t offset, std::uint64_t size) noexcept {
    const Extent extent = extent_at(offset, size);
    return check(offset, size).ok() && extent.kind == ExtentKind::zero && extent.size >= size;
}

ReadResult PythonSource::prepare(std::uint64_t offset, std::uint64_t size) noexcept { return check(offset, size); }

ReadResult PythonSource::still_whole() const noexcept { return check(0, 0); }

std::string PythonSource::remedy(const ReadResult& result) const {
    if (result.status != ReadStatus::io_error) {
        return {};
    }
    std::string why = requests_->why(result.errno_value);
    if (why.empty() && result.errno_value == ETIMEDOUT) {
        why = "no answer for " + std::to_string(requests_->timeout().count()) +
              " ms: see what holds it up, or give the source a longer timeout";
    }
    return why;
}

void PythonSource::close() noexcept {
    closed_.store(true, std::memory_order_relaxed);
    requests_->close();
}

}  // namespace vmthaw
