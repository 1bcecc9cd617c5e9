#include "source/python/python_source.hpp"

#include <algorithm>
#include <utility>

#include "base/error.hpp"
#include "base/page.hpp"

namespace vmthaw {
namespace {

[[noreturn]] void refuse(std::size_t index, const Extent& extent, const std::string& why) {
    throw ArgumentError("extents[" + std::to_string(index) + "] (offset " + hex(extent.offset) + ", " +
                        std::to_string(extent.size) + " bytes): " + why);
}

// In order, without gaps, page-aligned, data and zero only; neighbours of one kind are joined.
std::vector<Extent> checked(const std::vector<Extent>& extents, std::uint64_t size) {
    if (size == 0) {
        throw ArgumentError("a source of 0 bytes serves nothing: give the size of the memory in bytes");
    }
    if (extents.empty()) {
        return {{0, size, ExtentKind::data}};
    }
    std::vector<Extent> result;
    std::uint64_t position = 0;
    for (std::size_t i = 0; i < extents.size(); ++i) {
        const Extent& extent = extents[i];
        if (extent.kind != ExtentKind::data && extent.kind != ExtentKind::zero) {
            refuse(i, extent, "only data and zero can be served: there is no layer below for \"unchanged\"");
        }
        if (extent.offset != position) {
            refuse(i, extent,
                   "extents must be in order and leave nothing out, so this one must begin at " + hex(position) +
                       " (list holes as zero)");
        }
        if (extent.size == 0 || extent.size > size - position) {
            refuse(i, extent, "it is empty or ends behind the source's " + std::to_string(size) + " bytes");
        }
        position += extent.size;
        if (position % kPageBytes != 0 && position != size) {
            refuse(i, extent, "it must end on a multiple of 4096: a page is of one kind");
        }
        if (!result.empty() && result.back().kind == extent.kind) {
            result.back().size += extent.size;
        } else {
            result.push_back(extent);
        }
    }
    if (position != size) {
        refuse(extents.size() - 1, extents.back(),
               "the last extent must end at the source's size of " + std::to_string(size) + " bytes");
    }
    return result;
}

}  // namespace

PythonSource::PythonSource(std::uint64_t size, const std::vector<Extent>& extents, std::string name,
                           std::chrono::milliseconds timeout, std::size_t max_queued)
    : size_(size),
      extents_(checked(extents, size)),
      name_(std::move(name)),
      requests_(std::make_shared<RequestQueue>(max_queued, timeout)) {}

bool PythonSource::covers(std::uint64_t offset, std::uint64_t size) const noexcept {
    return offset <= size_ && size <= size_ - offset;
}

ReadResult PythonSource::check(std::uint64_t offset, std::uint64_t size) const noexcept {
    if (closed_.load(std::memory_order_relaxed) || inherited()) {
        return {.status = ReadStatus::closed};
    }
    return {.status = covers(offset, size) ? ReadStatus::ok : ReadStatus::out_of_range};
}

Extent PythonSource::extent_at(std::uint64_t offset, std::uint64_t limit) const noexcept {
    limit = std::max<std::uint64_t>(limit, 1);
    if (offset >= size_) {
        return {offset, limit, ExtentKind::data};  // read() says out_of_range; zeros would hide the mistake
    }
    const auto next = std::upper_bound(extents_.begin(), extents_.end(), offset,
                                       [](std::uint64_t value, const Extent& extent) { return value < extent.offset; });
    const Extent& found = *std::prev(next);
    return {offset, std::min(limit, found.offset + found.size - offset), found.kind};
}

ReadResult PythonSource::read(std::uint64_t offset, std::span<std::byte> out) noexcept {
    const ReadResult result = check(offset, out.size());
    if (!result.ok()) {
        return result;
    }
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

void PythonSource::close() noexcept {
    closed_.store(true, std::memory_order_relaxed);
    requests_->close();
}

}  // namespace vmthaw
