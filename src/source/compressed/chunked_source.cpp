#include "source/compressed/chunked_source.hpp"

#include <algorithm>
#include <cerrno>
#include <new>
#include <utility>

#include "base/error.hpp"
#include "base/page.hpp"
#include "source/xxh64.hpp"

namespace vmthaw {

ChunkedSource::ChunkedSource(ChunkIndex index, std::uint64_t cache_bytes)
    : index_(std::move(index)),
      extents_(index_.extents()),
      cache_(*this, index_.count(), index_.largest(), cache_bytes) {}

bool ChunkedSource::covers(std::uint64_t offset, std::uint64_t size) const noexcept {
    const std::uint64_t end = round_up(index_.size(), kPageBytes);
    return offset <= end && size <= end - offset;
}

// A range may go over the end as far as its last page does, whatever the size of that page is.
ReadResult ChunkedSource::check(std::uint64_t offset, std::uint64_t size) const noexcept {
    if (closed_.load(std::memory_order_relaxed) || inherited()) {
        return {.status = ReadStatus::closed};
    }
    if (offset > index_.size() || (offset == index_.size() && size > 0)) {
        return {.status = ReadStatus::out_of_range};
    }
    const std::uint64_t room = index_.size() - offset;
    const bool is_served = size <= room || size - std::min(size, page_spoken_of(size)) < room;
    return {.status = is_served ? ReadStatus::ok : ReadStatus::out_of_range};
}

Extent ChunkedSource::extent_at(std::uint64_t offset, std::uint64_t limit) const noexcept {
    limit = std::max<std::uint64_t>(limit, 1);
    if (offset >= index_.size()) {
        return {offset, limit, ExtentKind::data};  // read() says out_of_range; zeros would hide the mistake
    }
    const auto next = std::upper_bound(extents_.begin(), extents_.end(), offset,
                                       [](std::uint64_t value, const Extent& extent) { return value < extent.offset; });
    const Extent& found = *std::prev(next);
    // The rest of the page behind the end is of the kind of what is before it.
    const std::uint64_t end = next == extents_.end() ? offset + limit : found.offset + found.size;
    return {offset, std::min(limit, end - offset), found.kind};
}

ReadResult ChunkedSource::read(std::uint64_t offset, std::span<std::byte> out) noexcept {
    if (const ReadResult result = check(offset, out.size()); !result.ok()) {
        return result;
    }
    std::size_t done = 0;
    while (done < out.size() && offset + done < index_.size()) {
        const std::size_t number = index_.find(offset + done);
        const Chunk& chunk = index_[number];
        const std::uint64_t inside = offset + done - chunk.start;
        const auto part = out.subspan(done, std::min<std::uint64_t>(chunk.bytes - inside, out.size() - done));
        if (chunk.zero) {
            std::fill(part.begin(), part.end(), std::byte{0});
        } else {
            ReadResult result = cache_.read(index_.held_as(number), inside, part);
            if (!result.ok()) {
                result.got_bytes = done;
                result.failed_at = offset + done;
                return result;
            }
        }
        done += part.size();
    }
    std::fill(out.begin() + static_cast<std::ptrdiff_t>(done), out.end(), std::byte{0});
    return {};
}

bool ChunkedSource::read_now(std::uint64_t offset, std::span<std::byte> out) noexcept {
    if (closed_.load(std::memory_order_relaxed) || offset >= index_.size() || out.size() > index_.size() - offset) {
        return false;
    }
    const std::size_t number = index_.find(offset);
    const Chunk& chunk = index_[number];
    const std::uint64_t inside = offset - chunk.start;
    return !chunk.zero && out.size() <= chunk.bytes - inside && cache_.read_now(index_.held_as(number), inside, out);
}

bool ChunkedSource::ready(std::uint64_t offset, std::uint64_t size) noexcept {
    if (!check(offset, size).ok()) {
        return false;
    }
    const std::uint64_t end = std::min(index_.size(), offset + size);
    while (offset < end) {
        const std::size_t number = index_.find(offset);
        if (!index_[number].zero && !cache_.holds(index_.held_as(number))) {
            return false;
        }
        offset = index_[number].start + index_[number].bytes;
    }
    return true;
}

ReadResult ChunkedSource::prepare(std::uint64_t offset, std::uint64_t size) noexcept {
    ReadResult result = check(offset, size);
    const std::uint64_t end = result.ok() ? std::min(index_.size(), offset + size) : 0;
    std::uint64_t room = cache_.capacity_chunks();
    for (; result.ok() && offset < end && room > 0; --room) {
        const std::size_t number = index_.find(offset);
        if (!index_[number].zero) {
            result = cache_.read(index_.held_as(number), 0, {});
        }
        if (!result.ok()) {
            result.failed_at = offset;
        }
        offset = index_[number].start + index_[number].bytes;
    }
    return result;
}

ReadResult ChunkedSource::still_whole() const noexcept {
    const ReadResult result = check(0, 0);
    return result.ok() ? storage_whole() : result;
}

ReadResult ChunkedSource::load(std::uint64_t number, std::span<std::byte> room) noexcept {
    const Chunk& chunk = index_[number];
    try {
        std::vector<std::byte> packed;
        const ReadResult result = fetch(number, packed);
        if (result.errno_value == ENOENT) {
            return damaged(number, ENOENT, "it is not there");
        }
        if (!result.ok()) {
            return result;
        }
        const auto out = room.first(chunk.bytes);
        if (const char* why = decompress_chunk(index_.codec(), packed, out)) {
            return damaged(number, EBADMSG, why);
        }
        if (index_.has_checksums() && static_cast<std::uint32_t>(xxh64(out)) != chunk.checksum) {
            return damaged(number, EBADMSG, "its bytes do not have the checksum that the index has for them");
        }
        return {};
    } catch (const std::bad_alloc&) {
        return {.status = ReadStatus::io_error, .errno_value = ENOMEM};
    }
}

ReadResult ChunkedSource::damaged(std::size_t chunk, int errno_value, const char* why) noexcept {
    const std::lock_guard lock(damage_mutex_);
    const auto known = std::span(damage_).first(damage_count_);
    const bool is_new =
        std::none_of(known.begin(), known.end(), [chunk](const Damage& one) { return one.chunk == chunk; });
    if (is_new && damage_count_ < damage_.size()) {
        damage_[damage_count_++] = {chunk, why};
    }
    return {.status = ReadStatus::io_error, .errno_value = errno_value};
}

std::string ChunkedSource::description_at(std::uint64_t offset) const {
    if (offset >= index_.size()) {
        return description();
    }
    const std::size_t number = index_.find(offset);
    return description() + ", chunk " + std::to_string(number) + " (" + place_of(number) + ")";
}

std::string ChunkedSource::remedy(const ReadResult& result) const {
    if (result.errno_value != EBADMSG && result.errno_value != ENOENT) {
        return {};
    }
    std::string text = "damaged are";
    const std::lock_guard lock(damage_mutex_);
    for (const Damage& one : std::span(damage_).first(damage_count_)) {
        const Chunk& chunk = index_[one.chunk];
        text += (text.back() == 'e' ? " chunk " : ", chunk ") + std::to_string(one.chunk) + " (memory " +
                hex(chunk.start) + " to " + hex(chunk.start + chunk.bytes) + ", " + place_of(one.chunk) + ": " +
                one.why + ")";
    }
    text += damage_count_ == damage_.size() ? " and perhaps more" : "";
    return text + "; " + way_out();
}

void ChunkedSource::close() noexcept {
    closed_.store(true, std::memory_order_relaxed);
    cache_.close();
}

}  // namespace vmthaw
