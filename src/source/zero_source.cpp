#include "source/zero_source.hpp"

#include <algorithm>

namespace vmthaw {

ZeroSource::ZeroSource(std::uint64_t size) : size_(size) {
    if (size == 0) {
        throw ArgumentError("a ZeroSource of 0 bytes serves nothing: give the size of the memory in bytes");
    }
}

bool ZeroSource::covers(std::uint64_t offset, std::uint64_t size) const noexcept {
    return offset <= size_ && size <= size_ - offset;
}

ReadResult ZeroSource::check(std::uint64_t offset, std::uint64_t size) const noexcept {
    if (closed_.load(std::memory_order_relaxed) || inherited()) {
        return {.status = ReadStatus::closed};
    }
    return {.status = covers(offset, size) ? ReadStatus::ok : ReadStatus::out_of_range};
}

Extent ZeroSource::extent_at(std::uint64_t offset, std::uint64_t limit) const noexcept {
    // Past the end it claims to be data, so that a caller who did not ask covers() gets out_of_range from read().
    if (offset >= size_) {
        return {offset, std::max<std::uint64_t>(limit, 1), ExtentKind::data};
    }
    return {offset, std::clamp<std::uint64_t>(limit, 1, size_ - offset), ExtentKind::zero};
}

ReadResult ZeroSource::read(std::uint64_t offset, std::span<std::byte> out) noexcept {
    const ReadResult result = check(offset, out.size());
    if (result.ok()) {
        std::fill(out.begin(), out.end(), std::byte{0});
    }
    return result;
}

bool ZeroSource::ready(std::uint64_t offset, std::uint64_t size) noexcept { return check(offset, size).ok(); }

ReadResult ZeroSource::prepare(std::uint64_t offset, std::uint64_t size) noexcept { return check(offset, size); }

ReadResult ZeroSource::still_whole() const noexcept { return check(0, 0); }

std::vector<Extent> ZeroSource::extents() const { return {{0, size_, ExtentKind::zero}}; }

}  // namespace vmthaw
