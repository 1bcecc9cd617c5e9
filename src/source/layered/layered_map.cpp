#include "source/layered/layered_map.hpp"

#include <algorithm>

#include "base/page.hpp"

namespace vmthaw {
namespace {

constexpr std::uint64_t kBlock = 4096;
constexpr unsigned kLayerShift = 40;
constexpr std::uint64_t kBlockMask = (std::uint64_t{1} << kLayerShift) - 1;
constexpr std::uint64_t kMostTableBlocks = std::uint64_t{64} << 20U;  // 256 GiB of memory, 512 MiB of table

}  // namespace

LayeredMap::LayeredMap(const LayeredHeader& header, std::span<const std::uint32_t> layers, Kind kind)
    : size_(header.size) {
    bool is_blocked = true;
    for (const LayeredMapping& mapping : header.mappings) {
        const std::uint32_t layer = layers[mapping.build];
        const std::uint64_t storage = layer == kZeros ? 0 : mapping.storage;
        if (!runs_.empty() && runs_.back().layer == layer &&
            (layer == kZeros || runs_.back().storage + (mapping.offset - begins_.back()) == storage)) {
            continue;
        }
        begins_.push_back(mapping.offset);
        runs_.push_back({storage, layer});
        is_blocked = is_blocked && mapping.offset % kBlock == 0 && storage % kBlock == 0 &&
                     (storage + mapping.length) / kBlock < kBlockMask;
    }
    begins_.shrink_to_fit();
    runs_.shrink_to_fit();
    const bool fits = is_blocked && round_up(size_, kBlock) / kBlock <= kMostTableBlocks && runs_.size() < kBlockMask;
    if (fits && kind != Kind::search && (kind == Kind::table || runs_.size() > kFewRuns)) {
        fill_table();
    }
}

void LayeredMap::fill_table() {
    table_.resize(round_up(size_, kBlock) / kBlock);
    for (std::size_t i = 0; i < runs_.size(); ++i) {
        const std::uint64_t end = i + 1 < runs_.size() ? begins_[i + 1] : size_;
        if (runs_[i].layer == kZeros) {
            continue;
        }
        std::uint64_t value = (std::uint64_t{runs_[i].layer} + 1) << kLayerShift | runs_[i].storage / kBlock;
        for (std::uint64_t at = begins_[i]; at < end; at += kBlock) {
            table_[at / kBlock] = value++;
        }
    }
}

LayeredMap::Place LayeredMap::at(std::uint64_t offset, std::uint64_t limit) const noexcept {
    limit = std::clamp<std::uint64_t>(limit, 1, size_ - offset);
    if (table_.empty()) {
        return search(offset, limit);
    }
    std::uint64_t block = offset / kBlock;
    const std::uint64_t first = table_[block];
    const std::uint64_t step = first == 0 ? 0 : 1;
    std::uint64_t expected = first;
    std::uint64_t size = kBlock - offset % kBlock;
    while (size < limit && table_[++block] == (expected += step)) {
        size += kBlock;
    }
    size = std::min(size, limit);
    if (first == 0) {
        return {kZeros, 0, size};
    }
    return {static_cast<std::uint32_t>((first >> kLayerShift) - 1), (first & kBlockMask) * kBlock + offset % kBlock,
            size};
}

LayeredMap::Place LayeredMap::search(std::uint64_t offset, std::uint64_t limit) const noexcept {
    const auto next = std::upper_bound(begins_.begin(), begins_.end(), offset);
    const auto index = static_cast<std::size_t>(next - begins_.begin()) - 1;
    const std::uint64_t room = next == begins_.end() ? limit : *next - offset;
    const Run& run = runs_[index];
    const std::uint64_t storage = run.layer == kZeros ? 0 : run.storage + (offset - begins_[index]);
    return {run.layer, storage, std::min(limit, room)};
}

}  // namespace vmthaw
