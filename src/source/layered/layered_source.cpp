#include "source/layered/layered_source.hpp"

#include <algorithm>
#include <cerrno>
#include <memory>
#include <new>
#include <utility>

#include "base/error.hpp"
#include "base/page.hpp"
#include "source/compressed/lz4_frame.hpp"
#include "source/compressed/zstd_frame.hpp"
#include "source/layered/layered_layers.hpp"

namespace vmthaw {

LayeredSource::LayeredSource(const LayeredHeader& header, const Builds& builds, std::size_t cache_bytes)
    : build_(header.build),
      map_(header, open_layers(header, builds)),
      cache_(*this, count_frames(), largest_frame(), cache_bytes) {}

// The layer of each UUID of the header. Runs before map_ and cache_ are made.
std::vector<std::uint32_t> LayeredSource::open_layers(const LayeredHeader& header, const Builds& builds) {
    check_layered_header(header);
    std::vector<std::uint32_t> numbers(header.uuids.size(), LayeredMap::kZeros);
    const std::vector<BuildUse> uses = uses_of_builds(header);
    for (std::size_t i = 0; i < uses.size(); ++i) {
        if (uses[i].bytes == 0 || header.uuids[i].is_nil()) {
            continue;
        }
        const auto found = builds.find(header.uuids[i]);
        std::shared_ptr<PageSource> source = found == builds.end() ? nullptr : found->second;
        check_layer(header, header.uuids[i], uses[i], source.get());
        auto layer = std::make_unique<Layer>();
        layer->uuid = header.uuids[i];
        layer->source = std::move(source);
        if (const LayeredBuild* known = header.find_build(layer->uuid); known != nullptr) {
            layer->codec = known->codec;
            layer->frames = known->frames;
        }
        layer->first_frame = count_frames();
        numbers[i] = static_cast<std::uint32_t>(layers_.size());
        layers_.push_back(std::move(layer));
    }
    return numbers;
}

bool LayeredSource::covers(std::uint64_t offset, std::uint64_t size) const noexcept {
    const std::uint64_t end = round_up(map_.size(), kPageBytes);
    return offset <= end && size <= end - offset;
}

ReadResult LayeredSource::check(std::uint64_t offset, std::uint64_t size) const noexcept {
    if (is_closed()) {
        return {.status = ReadStatus::closed};
    }
    if (offset >= map_.size()) {
        return {.status = size == 0 && offset == map_.size() ? ReadStatus::ok : ReadStatus::out_of_range};
    }
    // Zeros as long as the last page asked for starts before the end.
    const bool is_served = size - std::min(size, page_spoken_of(size)) < map_.size() - offset;
    return {.status = is_served ? ReadStatus::ok : ReadStatus::out_of_range};
}

LayeredSource::Part LayeredSource::part_at(std::uint64_t offset, std::uint64_t limit) const noexcept {
    if (offset >= map_.size()) {
        return {nullptr, 0, limit};  // the rest of the last page
    }
    const LayeredMap::Place place = map_.at(offset, limit);
    return {place.layer == LayeredMap::kZeros ? nullptr : layers_[place.layer].get(), place.storage, place.size};
}

Extent LayeredSource::extent_at(std::uint64_t offset, std::uint64_t limit) const noexcept {
    limit = std::max<std::uint64_t>(limit, 1);
    if (offset >= map_.size() + kLargestSourcePage) {
        return {offset, limit, ExtentKind::data};  // read() says out_of_range; zeros would hide the mistake
    }
    const Part part = part_at(offset, limit);
    if (part.layer == nullptr) {
        return {offset, part.size, ExtentKind::zero};
    }
    if (part.layer->codec != FrameCodec::none) {
        return {offset, part.size, ExtentKind::data};
    }
    const Extent extent = part.layer->source->extent_at(part.storage, part.size);
    return {offset, extent.size, extent.kind == ExtentKind::zero ? ExtentKind::zero : ExtentKind::data};
}

ReadResult LayeredSource::located(ReadResult result, const Part& part, std::uint64_t offset) noexcept {
    if (!result.ok()) {
        const std::uint64_t inside = result.failed_at.value_or(part.storage) - part.storage;
        result.failed_at = offset + (inside < part.size ? inside : 0);
    }
    return result;
}

std::uint64_t LayeredSource::source_offset(const Layer& layer, std::uint64_t storage) noexcept {
    return layer.codec == FrameCodec::none ? storage : layer.frames[frame_at(layer, storage)].compressed_start;
}

// The frame that holds the byte at `storage`: the header's check found one for all that is mapped.
std::size_t LayeredSource::frame_at(const Layer& layer, std::uint64_t storage) noexcept {
    const auto next = std::upper_bound(layer.frames.begin(), layer.frames.end(), storage,
                                       [](std::uint64_t value, const LayeredFrame& one) { return value < one.start; });
    return static_cast<std::size_t>(next - layer.frames.begin()) - 1;
}

std::uint64_t LayeredSource::count_frames() const noexcept {
    return layers_.empty() ? 0 : layers_.back()->first_frame + layers_.back()->frames.size();
}

std::uint64_t LayeredSource::largest_frame() const noexcept {
    std::uint64_t largest = 0;
    for (const auto& layer : layers_) {
        for (const LayeredFrame& frame : layer->frames) {
            largest = std::max<std::uint64_t>(largest, frame.size);
        }
    }
    return largest;
}

ReadResult LayeredSource::load(std::uint64_t number, std::span<std::byte> room) noexcept {
    // Of layers that begin at the same number the last one has the frame, those before it have none.
    const auto next = std::upper_bound(layers_.begin(), layers_.end(), number,
                                       [](std::uint64_t value, const auto& one) { return value < one->first_frame; });
    const Layer& layer = **std::prev(next);
    const LayeredFrame& frame = layer.frames[number - layer.first_frame];
    const std::unique_ptr<std::byte[]> packed(  // NOLINT(modernize-avoid-c-arrays): a vector would zero it first
        new (std::nothrow) std::byte[frame.compressed_size]);
    if (!packed) {
        return {.status = ReadStatus::io_error, .errno_value = ENOMEM};
    }
    const std::span<std::byte> from(packed.get(), frame.compressed_size);
    if (const ReadResult result = layer.source->read(frame.compressed_start, from); !result.ok()) {
        return result;
    }
    const auto to = room.first(frame.size);
    const char* why = layer.codec == FrameCodec::zstd ? zstd_decompress(from, to) : lz4_decompress(from, to);
    return why == nullptr ? ReadResult{} : ReadResult{.status = ReadStatus::io_error, .errno_value = EBADMSG};
}

ReadResult LayeredSource::read_part(const Part& part, std::span<std::byte> out) noexcept {
    if (part.layer == nullptr) {
        std::fill(out.begin(), out.end(), std::byte{0});
        return {};
    }
    if (part.layer->codec == FrameCodec::none) {
        return part.layer->source->read(part.storage, out);
    }
    for (std::uint64_t done = 0; done < out.size();) {
        const std::uint64_t at = part.storage + done;
        const std::size_t number = frame_at(*part.layer, at);
        const LayeredFrame& frame = part.layer->frames[number];
        const std::uint64_t begin = at - frame.start;
        const std::uint64_t size = std::min<std::uint64_t>(out.size() - done, frame.size - begin);
        ReadResult result = cache_.read(part.layer->first_frame + number, begin, out.subspan(done, size));
        if (!result.ok()) {
            result.got_bytes = result.status == ReadStatus::short_read ? done : 0;
            result.failed_at = at;
            return result;
        }
        done += size;
    }
    return {};
}

ReadResult LayeredSource::read(std::uint64_t offset, std::span<std::byte> out) noexcept {
    ReadResult result = check(offset, out.size());
    for (std::uint64_t done = 0; done < out.size() && result.ok();) {
        const Part part = part_at(offset + done, out.size() - done);
        result = located(read_part(part, out.subspan(done, part.size)), part, offset + done);
        if (result.status == ReadStatus::short_read) {
            result.got_bytes += done;
        }
        done += part.size;
    }
    return result;
}

const std::byte* LayeredSource::mapped(std::uint64_t offset, std::uint64_t size) const noexcept {
    if (!check(offset, size).ok()) {
        return nullptr;
    }
    const Part part = part_at(offset, size);
    const bool is_plain = part.size == size && part.layer != nullptr && part.layer->codec == FrameCodec::none;
    return is_plain ? part.layer->source->mapped(part.storage, size) : nullptr;
}

bool LayeredSource::ready(std::uint64_t offset, std::uint64_t size) noexcept {
    if (!check(offset, size).ok()) {
        return false;
    }
    for (std::uint64_t done = 0; done < size;) {
        const Part part = part_at(offset + done, size - done);
        if (part.layer != nullptr &&
            (part.layer->codec != FrameCodec::none || !part.layer->source->ready(part.storage, part.size))) {
            return false;
        }
        done += part.size;
    }
    return true;
}

bool LayeredSource::read_now(std::uint64_t offset, std::span<std::byte> out) noexcept {
    if (!check(offset, out.size()).ok()) {
        return false;
    }
    const Part part = part_at(offset, out.size());
    if (part.layer == nullptr || part.size != out.size()) {
        return false;
    }
    if (part.layer->codec == FrameCodec::none) {
        return part.layer->source->read_now(part.storage, out);
    }
    const std::size_t number = frame_at(*part.layer, part.storage);
    const LayeredFrame& frame = part.layer->frames[number];
    const std::uint64_t begin = part.storage - frame.start;
    return out.size() <= frame.size - begin && cache_.read_now(part.layer->first_frame + number, begin, out);
}

ReadResult LayeredSource::prepare(std::uint64_t offset, std::uint64_t size) noexcept {
    ReadResult result = check(offset, size);
    for (std::uint64_t done = 0; done < size && result.ok();) {
        const Part part = part_at(offset + done, size - done);
        if (part.layer != nullptr && part.layer->codec == FrameCodec::none) {
            result = located(part.layer->source->prepare(part.storage, part.size), part, offset + done);
        }
        done += part.size;
    }
    return result;
}

ReadResult LayeredSource::still_whole() const noexcept {
    ReadResult result = check(0, 0);
    for (std::size_t i = 0; i < layers_.size() && result.ok(); ++i) {
        result = layers_[i]->source->still_whole();
    }
    return result;
}

ReadResult LayeredSource::whole_at(std::uint64_t offset) const noexcept {
    const ReadResult result = check(offset, 1);
    const Part part = result.ok() ? part_at(offset, 1) : Part{};
    return part.layer == nullptr ? result : part.layer->source->whole_at(source_offset(*part.layer, part.storage));
}

ReadResult LayeredSource::whole_lately(std::uint64_t offset, std::uint64_t now_ns) const noexcept {
    if (const ReadResult result = check(offset, 1); !result.ok()) {
        return result;
    }
    const Part part = part_at(offset, 1);
    if (part.layer == nullptr || part.layer->codec != FrameCodec::none) {
        return {};  // whoever read a frame looked then
    }
    return part.layer->source->whole_lately(part.storage, now_ns);
}

bool LayeredSource::is_closed() const noexcept { return closed_.load(std::memory_order_relaxed) || inherited(); }

std::vector<Extent> LayeredSource::extents() const {
    std::vector<Extent> result;
    for (std::uint64_t offset = 0; offset < map_.size();) {
        const Extent extent = extent_at(offset, map_.size() - offset);
        if (!result.empty() && result.back().kind == extent.kind) {
            result.back().size += extent.size;
        } else {
            result.push_back(extent);
        }
        offset += extent.size;
    }
    return result;
}

SourceTier LayeredSource::tier(std::uint64_t offset) const noexcept {
    const Part part = part_at(offset, 1);
    return part.layer == nullptr ? SourceTier::zero : part.layer->source->tier(part.storage);
}

std::string LayeredSource::description() const {
    return "layers:" + build_.text() + " (" + std::to_string(layers_.size()) + " builds)";
}

std::string LayeredSource::description_at(std::uint64_t offset) const {
    const Part part = part_at(offset, 1);
    if (part.layer == nullptr) {
        return description();
    }
    return description() + ", at " + hex(part.storage) + " of build " + part.layer->uuid.text() + " (" +
           part.layer->source->description_at(source_offset(*part.layer, part.storage)) + ")";
}

// Of the build that failed, or else of the first that knows one: after still_whole() it may be any.
std::string LayeredSource::remedy(const ReadResult& result) const {
    std::string text;
    if (result.failed_at) {
        const Part part = part_at(*result.failed_at, 1);
        if (part.layer != nullptr) {
            ReadResult of_build = result;
            of_build.failed_at = source_offset(*part.layer, part.storage);
            text = part.layer->source->remedy(of_build);
        }
    } else {
        for (auto layer = layers_.begin(); layer != layers_.end() && text.empty(); ++layer) {
            text = (*layer)->source->remedy(result);
        }
    }
    if (text.empty() && result.status == ReadStatus::io_error && result.errno_value == EBADMSG) {
        text = "its frame there is damaged: take another copy of the build";
    }
    return text;
}

void LayeredSource::close() noexcept {
    closed_.store(true, std::memory_order_relaxed);
    cache_.close();  // first: who waits for a frame is let go, however long a build takes to close
    for (const auto& layer : layers_) {
        layer->source->close();
    }
}

LayeredSource::Resolved LayeredSource::resolve(std::uint64_t offset) const {
    if (offset >= map_.size()) {
        throw_read_error(*this, offset, 1, {.status = ReadStatus::out_of_range});
    }
    const Part part = part_at(offset, map_.size() - offset);
    return {part.layer == nullptr ? Uuid{} : part.layer->uuid, part.storage, part.size};
}

}  // namespace vmthaw
