#include "source/file/sparse_diff_source.hpp"

#include <algorithm>
#include <bit>
#include <utility>

#include "base/error.hpp"
#include "source/file/backing_file.hpp"

namespace vmthaw {
namespace {

constexpr std::uint64_t kPage = DataRanges::kPageBytes;

DataRanges ranges_of(const std::vector<std::uint64_t>& pages, std::uint64_t size, const std::string& path) {
    const std::uint64_t count = (size + kPage - 1) / kPage;
    if (pages.size() != (count + 63) / 64 || (count % 64 != 0 && (pages.back() >> (count % 64)) != 0)) {
        throw ArgumentError("the changed pages of " + path + " are " + std::to_string(pages.size()) +
                            " words of 64 bits; its memory has " + std::to_string(count) + " pages");
    }
    std::vector<DataRanges::Range> ranges;
    for (std::size_t word = 0; word < pages.size(); ++word) {
        for (std::uint64_t rest = pages[word]; rest != 0; rest &= rest - 1) {
            const std::uint64_t begin = (word * 64 + static_cast<std::uint64_t>(std::countr_zero(rest))) * kPage;
            if (!ranges.empty() && ranges.back().end == begin) {
                ranges.back().end += kPage;
            } else {
                ranges.push_back({begin, begin + kPage});
            }
        }
    }
    return {ranges, size};
}

DataRanges ranges_of_file(const std::string& path) {
    const BackingFile file(path);
    try {
        return DataRanges::scan(file.fd(), file.size());
    } catch (const SystemError& error) {
        throw_open_error(path, error.errno_value(), error.what());
    }
}

}  // namespace

SparseDiffSource::SparseDiffSource(std::shared_ptr<PageSource> base, const std::vector<SparseDiff>& diffs)
    : size_(base ? base->size() : 0), segments_{{0, 0}} {
    if (!base || base->start() != 0) {
        throw ArgumentError("the base of diffs must be a source that begins at offset 0");
    }
    layers_.push_back(std::move(base));
    for (const SparseDiff& diff : diffs) {
        layers_.push_back(std::make_shared<FileSource>(diff.path));
        if (layers_.back()->size() != size_) {
            throw_open_error(diff.path, 0,
                             "a diff of " + std::to_string(layers_.back()->size()) + " bytes does not belong to " +
                                 layers_.front()->description() + ", which has " + std::to_string(size_));
        }
        std::optional<DataRanges> pages;
        if (diff.changed_pages) {
            pages = ranges_of(*diff.changed_pages, size_, diff.path);
        }
        lay_over(pages ? *pages : ranges_of_file(diff.path), layers_.size() - 1);
        written_down_.push_back(std::move(pages));
    }
}

// Both lists are sorted: a merge, in which the new layer hides what lies below it.
void SparseDiffSource::lay_over(const DataRanges& ranges, std::size_t layer) {
    std::vector<Segment> merged;
    const auto add = [&merged](std::uint64_t begin, std::size_t from) {
        if (!merged.empty() && merged.back().begin == begin) {
            merged.back().layer = from;
        } else {
            merged.push_back({begin, from});
        }
        if (merged.size() >= 2 && merged[merged.size() - 2].layer == merged.back().layer) {
            merged.pop_back();
        }
    };
    std::size_t below = 0;
    std::size_t layer_below = 0;  // at the place reached
    const auto advance_to = [&](std::uint64_t end, bool visible) {
        while (below < segments_.size() && segments_[below].begin < end) {
            layer_below = segments_[below].layer;
            if (visible) {
                add(segments_[below].begin, layer_below);
            }
            ++below;
        }
    };
    for (const DataRanges::Range& range : ranges.ranges()) {
        advance_to(range.begin, true);
        add(range.begin, layer);
        advance_to(range.end, false);
        if (below >= segments_.size() || segments_[below].begin != range.end) {
            add(range.end, layer_below);
        }
    }
    advance_to(~std::uint64_t{0}, true);
    merged.shrink_to_fit();
    segments_ = std::move(merged);
}

std::size_t SparseDiffSource::layer_at(std::uint64_t offset) const noexcept {
    const auto next = std::upper_bound(segments_.begin(), segments_.end(), offset,
                                       [](std::uint64_t value, const Segment& one) { return value < one.begin; });
    return std::prev(next)->layer;
}

SparseDiffSource::Part SparseDiffSource::part_at(std::uint64_t offset, std::uint64_t limit) const noexcept {
    const auto next = std::upper_bound(segments_.begin(), segments_.end(), offset,
                                       [](std::uint64_t value, const Segment& one) { return value < one.begin; });
    const std::uint64_t room = next == segments_.end() ? limit : next->begin - offset;
    return {*layers_[std::prev(next)->layer], std::min(limit, room)};
}

std::vector<Extent> SparseDiffSource::diff_extents(std::size_t layer) const {
    if (layer == 0 || layer >= layers_.size()) {
        throw ArgumentError("layer " + std::to_string(layer) + " is no diff: there are " +
                            std::to_string(layers_.size() - 1) + ", and 1 is the oldest");
    }
    const PageSource& file = *layers_[layer];
    const std::optional<DataRanges>& pages = written_down_[layer - 1];
    std::vector<Extent> extents = pages ? pages->extents() : file.extents();
    for (Extent& extent : extents) {
        extent.kind = extent.kind == ExtentKind::zero ? ExtentKind::unchanged : extent.kind;
    }
    if (!pages) {
        return extents;
    }
    std::vector<Extent> parts;
    for (const Extent& extent : extents) {
        for (std::uint64_t done = 0; done < extent.size; done += parts.back().size) {
            const Extent rest{extent.offset + done, extent.size - done, extent.kind};
            parts.push_back(rest.kind == ExtentKind::data ? file.extent_at(rest.offset, rest.size) : rest);
        }
    }
    return parts;
}

bool SparseDiffSource::covers(std::uint64_t offset, std::uint64_t size) const noexcept {
    return layers_.front()->covers(offset, size);
}

Extent SparseDiffSource::extent_at(std::uint64_t offset, std::uint64_t limit) const noexcept {
    const Part part = part_at(offset, std::max<std::uint64_t>(limit, 1));
    return part.layer.extent_at(offset, part.size);
}

ReadResult SparseDiffSource::read(std::uint64_t offset, std::span<std::byte> out) noexcept {
    for (std::uint64_t done = 0; done < out.size();) {
        const Part part = part_at(offset + done, out.size() - done);
        ReadResult result = part.layer.read(offset + done, out.subspan(done, part.size));
        if (!result.ok()) {
            result.got_bytes += result.status == ReadStatus::short_read ? done : 0;
            result.failed_at = result.failed_at.value_or(offset + done);
            return result;
        }
        done += part.size;
    }
    return out.empty() ? layers_.front()->read(offset, out) : ReadResult{};
}

const std::byte* SparseDiffSource::mapped(std::uint64_t offset, std::uint64_t size) const noexcept {
    const Part part = part_at(offset, size);
    return part.size == size ? part.layer.mapped(offset, size) : nullptr;
}

bool SparseDiffSource::ready(std::uint64_t offset, std::uint64_t size) noexcept {
    for (std::uint64_t done = 0; done < size;) {
        const Part part = part_at(offset + done, size - done);
        if (!part.layer.ready(offset + done, part.size)) {
            return false;
        }
        done += part.size;
    }
    return true;
}

bool SparseDiffSource::read_now(std::uint64_t offset, std::span<std::byte> out) noexcept {
    const Part part = part_at(offset, out.size());
    return part.size == out.size() && part.layer.read_now(offset, out);
}

ReadResult SparseDiffSource::prepare(std::uint64_t offset, std::uint64_t size) noexcept {
    ReadResult result;
    for (std::uint64_t done = 0; done < size && result.ok();) {
        const Part part = part_at(offset + done, size - done);
        result = part.layer.prepare(offset + done, part.size);
        if (!result.ok()) {
            result.failed_at = result.failed_at.value_or(offset + done);
        }
        done += part.size;
    }
    return result;
}

ReadResult SparseDiffSource::still_whole() const noexcept {
    for (const auto& layer : layers_) {
        if (const ReadResult result = layer->still_whole(); !result.ok()) {
            return result;
        }
    }
    return {};
}

ReadResult SparseDiffSource::whole_at(std::uint64_t offset) const noexcept {
    return part_at(offset, 1).layer.whole_at(offset);
}

ReadResult SparseDiffSource::whole_lately(std::uint64_t offset, std::uint64_t now_ns) const noexcept {
    return part_at(offset, 1).layer.whole_lately(offset, now_ns);
}

std::vector<Extent> SparseDiffSource::extents() const {
    std::vector<Extent> result;
    for (std::uint64_t offset = 0; offset < size_;) {
        const Extent extent = extent_at(offset, size_ - offset);
        if (!result.empty() && result.back().kind == extent.kind) {
            result.back().size += extent.size;
        } else {
            result.push_back(extent);
        }
        offset += extent.size;
    }
    return result;
}

SourceTier SparseDiffSource::tier(std::uint64_t offset) const noexcept {
    return layers_[layer_at(offset)]->tier(offset);
}

std::string SparseDiffSource::description() const {
    return layers_.front()->description() + " + " + std::to_string(layers_.size() - 1) + " diffs";
}

std::string SparseDiffSource::description_at(std::uint64_t offset) const {
    const std::size_t layer = layer_at(offset);
    const std::string which =
        layer == 0 ? "the base" : "diff " + std::to_string(layer) + " of " + std::to_string(layers_.size() - 1);
    return layers_[layer]->description_at(offset) + " (" + which + " in " + description() + ")";
}

// Of the layer that failed, or else of the first that knows one: after still_whole() it may be any.
std::string SparseDiffSource::remedy(const ReadResult& result) const {
    if (result.failed_at) {
        return layers_[layer_at(*result.failed_at)]->remedy(result);
    }
    std::string text;
    for (auto layer = layers_.begin(); layer != layers_.end() && text.empty(); ++layer) {
        text = (*layer)->remedy(result);
    }
    return text;
}

void SparseDiffSource::close() noexcept {
    for (const auto& layer : layers_) {
        layer->close();
    }
}

}  // namespace vmthaw
