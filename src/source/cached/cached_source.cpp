#include "source/cached/cached_source.hpp"

#include <algorithm>
#include <bit>
#include <utility>

#include "base/error.hpp"
#include "base/page.hpp"

namespace vmthaw {
namespace {

constexpr std::uint64_t kLargestCachedChunk = std::uint64_t{64} << 20U;

std::uint64_t checked_chunk(std::uint64_t bytes) {
    if (!std::has_single_bit(bytes) || bytes < kPageBytes || bytes > kLargestCachedChunk) {
        throw ArgumentError("a chunk is a power of two from 4096 bytes to 64 MiB, not " + std::to_string(bytes) +
                            " bytes");
    }
    return bytes;
}

std::shared_ptr<PageSource> checked_source(std::shared_ptr<PageSource> source) {
    if (source == nullptr) {
        throw ArgumentError("a cache needs a source");
    }
    return source;
}

}  // namespace

CachedSource::CachedSource(std::shared_ptr<PageSource> source, CachedSourceConfig config)
    : source_(checked_source(std::move(source))),
      chunk_bytes_(checked_chunk(config.chunk_bytes)),
      disk_(config.disk ? std::make_unique<DiskChunks>(*std::move(config.disk)) : nullptr),
      cache_(*this, (source_->size() + chunk_bytes_ - 1) / chunk_bytes_, chunk_bytes_, config.memory_bytes) {}

bool CachedSource::holds_bytes_of(std::uint64_t offset, std::uint64_t size) const noexcept {
    const std::uint64_t begin = source_->start();
    return offset >= begin && offset - begin <= source_->size() && size <= source_->size() - (offset - begin);
}

CachedSource::Place CachedSource::place_of(std::uint64_t offset) const noexcept {
    const std::uint64_t position = offset - source_->start();
    const std::uint64_t inside = position % chunk_bytes_;
    return {position / chunk_bytes_, inside, chunk_bytes_ - inside};
}

ReadResult CachedSource::load(std::uint64_t chunk, std::span<std::byte> room) noexcept {
    const std::uint64_t position = chunk * chunk_bytes_;
    const auto part = room.first(std::min(chunk_bytes_, source_->size() - position));
    if (disk_ != nullptr && disk_->load(chunk, part)) {
        return {};
    }
    const ReadResult result = source_->read(source_->start() + position, part);
    if (result.ok() && disk_ != nullptr) {
        disk_->store(chunk, part);
    }
    return result;
}

ReadResult CachedSource::read(std::uint64_t offset, std::span<std::byte> out) noexcept {
    if (closed_.load(std::memory_order_relaxed) || inherited()) {
        return {.status = ReadStatus::closed};
    }
    if (!holds_bytes_of(offset, out.size())) {
        const std::uint64_t end = source_->start() + source_->size();
        // What lies behind the end is the source's to say: what it covers of the last page is zeros.
        if (offset >= end || !source_->covers(offset, out.size())) {
            return source_->read(offset, out);
        }
        const auto behind_end = out.subspan(end - offset);
        std::fill(behind_end.begin(), behind_end.end(), std::byte{0});
        out = out.first(end - offset);
    }
    std::uint64_t done = 0;
    while (done < out.size()) {
        const Extent extent = source_->extent_at(offset + done, out.size() - done);
        if (extent.kind == ExtentKind::zero) {
            const auto part = out.subspan(done, extent.size);
            std::fill(part.begin(), part.end(), std::byte{0});
            done += extent.size;
            continue;
        }
        const Place place = place_of(offset + done);
        const auto part = out.subspan(done, std::min(place.room, extent.size));
        ReadResult result = cache_.read(place.chunk, place.inside, part);
        if (!result.ok()) {
            result.got_bytes = done;
            result.failed_at = result.failed_at.value_or(offset + done);
            return result;
        }
        done += part.size();
    }
    return {};
}

bool CachedSource::ready(std::uint64_t offset, std::uint64_t size) noexcept {
    const Extent extent = extent_at(offset, size);
    return !closed_.load(std::memory_order_relaxed) && extent.kind == ExtentKind::zero && extent.size >= size;
}

bool CachedSource::read_now(std::uint64_t offset, std::span<std::byte> out) noexcept {
    if (closed_.load(std::memory_order_relaxed) || inherited() || !holds_bytes_of(offset, out.size())) {
        return false;
    }
    const Place place = place_of(offset);
    return out.size() <= place.room && cache_.read_now(place.chunk, place.inside, out);
}

std::string CachedSource::description_at(std::uint64_t offset) const {
    std::string text = "cache over " + source_->description_at(offset);
    if (holds_bytes_of(offset, 1)) {
        const std::uint64_t begin = offset - place_of(offset).inside;
        const std::uint64_t size = std::min(chunk_bytes_, source_->size() - (begin - source_->start()));
        text += ", in its chunk from " + hex(begin) + " to " + hex(begin + size);
    }
    return text;
}

void CachedSource::close() noexcept {
    closed_.store(true, std::memory_order_relaxed);
    source_->close();
    cache_.close();
}

DiskChunksStats CachedSource::disk_stats() const noexcept {
    return disk_ == nullptr ? DiskChunksStats{} : disk_->stats();
}

}  // namespace vmthaw
