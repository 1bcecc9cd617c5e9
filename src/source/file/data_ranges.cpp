#include "source/file/data_ranges.hpp"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/error.hpp"
#include "base/page.hpp"

namespace vmthaw {
namespace {

// linux/fs.h; <unistd.h> shows them to GNU sources only.
constexpr int kSeekData = 3;
constexpr int kSeekHole = 4;

constexpr std::uint64_t round_down(std::uint64_t value) { return value & ~(DataRanges::kPageBytes - 1); }

}  // namespace

DataRanges::DataRanges(const std::vector<Range>& ranges, std::uint64_t file_size) : file_size_(file_size) {
    for (const Range& range : ranges) {
        const std::uint64_t begin = round_down(range.begin);
        const std::uint64_t end = round_up(std::min(range.end, file_size), DataRanges::kPageBytes);
        if (begin >= end) {
            continue;
        }
        if (!ranges_.empty() && begin <= ranges_.back().end) {
            ranges_.back().end = std::max(ranges_.back().end, end);
        } else {
            ranges_.push_back({begin, end});
        }
    }
    ranges_.shrink_to_fit();
}

DataRanges DataRanges::scan(int fd, std::uint64_t file_size) {
    std::vector<Range> found;
    std::uint64_t position = 0;
    while (position < file_size) {
        const off_t data = ::lseek(fd, static_cast<off_t>(position), kSeekData);
        if (data < 0) {
            const int saved = errno;
            if (saved == ENXIO) {
                break;  // nothing but a hole from here on
            }
            if (saved == EINVAL || saved == EOPNOTSUPP) {
                return {{{0, file_size}}, file_size};
            }
            throw SystemError(saved, "lseek(SEEK_DATA)");
        }
        const off_t hole = ::lseek(fd, data, kSeekHole);
        // A file cut in the middle of the scan has no next hole; what is left is data, which then fails as short.
        const std::uint64_t end = hole > data ? static_cast<std::uint64_t>(hole) : file_size;
        found.push_back({static_cast<std::uint64_t>(data), end});
        position = end;
    }
    return {found, file_size};
}

Extent DataRanges::at(std::uint64_t position, std::uint64_t limit) const noexcept {
    limit = std::max<std::uint64_t>(limit, 1);
    const auto next = std::upper_bound(ranges_.begin(), ranges_.end(), position,
                                       [](std::uint64_t value, const Range& range) { return value < range.begin; });
    if (next != ranges_.begin() && position < std::prev(next)->end) {
        return {position, std::min(limit, std::prev(next)->end - position), ExtentKind::data};
    }
    const std::uint64_t room = next == ranges_.end() ? limit : next->begin - position;
    return {position, std::min(limit, room), ExtentKind::zero};
}

std::vector<Extent> DataRanges::extents() const {
    std::vector<Extent> result;
    result.reserve(2 * ranges_.size() + 1);
    std::uint64_t position = 0;
    while (position < file_size_) {
        const Extent extent = at(position, file_size_ - position);
        result.push_back(extent);
        position += extent.size;
    }
    return result;
}

}  // namespace vmthaw
