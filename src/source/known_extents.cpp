#include "source/known_extents.hpp"

#include <algorithm>
#include <iterator>
#include <string>

#include "base/error.hpp"
#include "base/page.hpp"

namespace vmthaw {
namespace {

[[noreturn]] void refuse_extent(std::size_t index, const Extent& extent, const std::string& why) {
    throw ArgumentError("extents[" + std::to_string(index) + "] (offset " + hex(extent.offset) + ", " +
                        std::to_string(extent.size) + " bytes): " + why);
}

void check_extents(const std::vector<Extent>& extents, std::uint64_t start, std::uint64_t size) {
    std::uint64_t done = 0;
    for (std::size_t i = 0; i < extents.size(); ++i) {
        const Extent& extent = extents[i];
        if (extent.kind != ExtentKind::data && extent.kind != ExtentKind::zero) {
            refuse_extent(i, extent, "only data and zero can be served: there is no layer below for \"unchanged\"");
        }
        if (extent.offset != start + done) {
            refuse_extent(i, extent,
                          "extents must be in order and leave nothing out, so this one must begin at " +
                              hex(start + done) + " (list holes as zero)");
        }
        if (extent.size == 0 || extent.size > size - done) {
            refuse_extent(i, extent, "it is empty or ends behind the source's " + std::to_string(size) + " bytes");
        }
        done += extent.size;
    }
    if (done != size) {
        refuse_extent(extents.size() - 1, extents.back(),
                      "the last extent must end at the source's size of " + std::to_string(size) + " bytes");
    }
}

std::vector<Extent> whole_pages(const std::vector<Extent>& extents, std::uint64_t start, std::uint64_t size) {
    if (extents.empty()) {
        return {{start, size, ExtentKind::data}};
    }
    check_extents(extents, start, size);
    const std::uint64_t end = start + size;
    std::vector<Extent> result;
    std::uint64_t done = start;
    const auto add_until = [&result, &done](std::uint64_t until, ExtentKind kind) {
        if (until <= done) {
            return;
        }
        if (!result.empty() && result.back().kind == kind) {
            result.back().size += until - done;
        } else {
            result.push_back({done, until - done, kind});
        }
        done = until;
    };
    for (const Extent& extent : extents) {
        if (extent.kind == ExtentKind::data) {
            add_until(extent.offset / kPageBytes * kPageBytes, ExtentKind::zero);
            const std::uint64_t tail = extent.offset + extent.size;
            add_until(tail + std::min((kPageBytes - tail % kPageBytes) % kPageBytes, end - tail), ExtentKind::data);
        }
    }
    add_until(end, ExtentKind::zero);
    return result;
}

}  // namespace

KnownExtents::KnownExtents(const std::vector<Extent>& extents, std::uint64_t start, std::uint64_t size)
    : start_(start), size_(size), extents_(whole_pages(extents, start, size)) {}

Extent KnownExtents::at(std::uint64_t offset, std::uint64_t limit) const noexcept {
    limit = std::max<std::uint64_t>(limit, 1);
    if (offset < start_ || offset - start_ >= size_) {
        return {offset, limit, ExtentKind::data};
    }
    const auto next = std::upper_bound(extents_.begin(), extents_.end(), offset,
                                       [](std::uint64_t value, const Extent& extent) { return value < extent.offset; });
    const Extent& found = *std::prev(next);
    return {offset, std::min(limit, found.size - (offset - found.offset)), found.kind};
}

}  // namespace vmthaw
