#include "source/layered/layered_map.hpp"

#include <algorithm>
#include <bit>

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
            (layer == kZeros || runs_.back().storage + (mapping.offset - runs_.back().begin) == storage)) {
            continue;
        }
        runs_.push_back({mapping.offset, storage, layer});
        is_blocked = is_blocked && mapping.offset % kBlock == 0 && storage % kBlock == 0 &&
                     (storage + mapping.length) / kBlock < kBlockMask;
    }
    runs_.shrink_to_fit();
    const bool fits = is_blocked && round_up(size_, kBlock) / kBlock <= kMostTableBlocks && runs_.size() < kBlockMask;
    if (fits && kind != Kind::search && (kind == Kind::table || runs_.size() > kFewRuns)) {
        fill_table();
    } else {
        fill_buckets();
    }
}

// About as many as there are runs: where those are of about one length, a bucket begins in the run that is looked for
// or in the one before it.
void LayeredMap::fill_buckets() {
    const std::uint64_t wanted = std::bit_ceil(runs_.size());
    while ((size_ - 1) >> bucket_shift_ >= wanted) {
        ++bucket_shift_;
    }
    const std::uint64_t count = ((size_ - 1) >> bucket_shift_) + 1;
    buckets_.reserve(count + 1);
    std::uint32_t run = 0;
    for (std::uint64_t bucket = 0; bucket < count; ++bucket) {
        while (run + 1 < runs_.size() && runs_[run + 1].begin <= bucket << bucket_shift_) {
            ++run;
        }
        buckets_.push_back(run);
    }
    buckets_.push_back(static_cast<std::uint32_t>(runs_.size() - 1));
}

void LayeredMap::fill_table() {
    table_.resize(round_up(size_, kBlock) / kBlock);
    for (std::size_t i = 0; i < runs_.size(); ++i) {
        const std::uint64_t end = i + 1 < runs_.size() ? runs_[i + 1].begin : size_;
        if (runs_[i].layer == kZeros) {
            continue;
        }
        std::uint64_t value = (std::uint64_t{runs_[i].layer} + 1) << kLayerShift | runs_[i].storage / kBlock;
        for (std::uint64_t at = runs_[i].begin; at < end; at += kBlock) {
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
    const std::uint64_t bucket = offset >> bucket_shift_;
    const Run* run = &runs_[buckets_[bucket]];
    const Run* const last = &runs_[buckets_[bucket + 1]];
    const Run* const next = std::upper_bound(run + 1, last + 1, offset,
                                             [](std::uint64_t value, const Run& one) { return value < one.begin; });
    run = next - 1;
    const std::uint64_t end = next == runs_.data() + runs_.size() ? size_ : next->begin;
    const std::uint64_t storage = run->layer == kZeros ? 0 : run->storage + (offset - run->begin);
    return {run->layer, storage, std::min(limit, end - offset)};
}

}  // namespace vmthaw
