#include "source/compressed/compress_pipeline.hpp"

#include <algorithm>
#include <bit>
#include <chrono>
#include <utility>

#include "base/error.hpp"
#include "base/thread.hpp"
#include "source/xxh64.hpp"

namespace vmthaw {
namespace {

constexpr std::chrono::milliseconds kPatience{100};
constexpr unsigned kMostThreads = 256;

std::uint64_t checked_chunks(const PageSource& source, const CompressOptions& options) {
    const std::uint64_t chunk = options.chunk_bytes;
    if (!std::has_single_bit(chunk) || chunk < kSmallestChunk || chunk > kLargestChunk) {
        throw ArgumentError("chunk is " + std::to_string(chunk) + " bytes; it must be a power of two from " +
                            std::to_string(kSmallestChunk) + " to " + std::to_string(kLargestChunk));
    }
    if (options.threads > kMostThreads) {
        throw ArgumentError("threads is " + std::to_string(options.threads) + "; it must be at most " +
                            std::to_string(kMostThreads));
    }
    if (source.start() != 0) {
        throw ArgumentError(source.description() + " begins at " + hex(source.start()) +
                            ": only a source that begins at 0 can be compressed");
    }
    const std::uint64_t chunks = (source.size() + chunk - 1) / chunk;
    if (chunks == 0 || chunks > kMostChunks) {
        throw ArgumentError(source.description() + " would be " + std::to_string(chunks) + " chunks; from 1 to " +
                            std::to_string(kMostChunks) + " are possible");
    }
    return chunks;
}

bool is_zero(std::span<const std::byte> bytes) noexcept {
    return std::all_of(bytes.begin(), bytes.end(), [](std::byte byte) { return byte == std::byte{0}; });
}

}  // namespace

CompressPipeline::CompressPipeline(PageSource& source, const CompressOptions& options)
    : source_(source),
      options_(options),
      level_(options.level.value_or(ChunkCompressor::default_level(options.codec))),
      chunks_(checked_chunks(source, options)) {
    const ChunkCompressor probe(options.codec, level_);  // refuses the level before any thread meets it
    const auto wanted = options.threads != 0 ? options.threads : static_cast<unsigned>(usable_cpus().size());
    const auto threads = static_cast<unsigned>(std::min<std::uint64_t>(std::min(wanted, kMostThreads), chunks_));
    ready_.resize(std::size_t{4} * threads);
    start(threads);
}

CompressPipeline::~CompressPipeline() { stop(); }

void CompressPipeline::start(unsigned threads) {
    try {
        for (unsigned number = 0; number < threads; ++number) {
            threads_.push_back(start_thread("vmthaw-pack-" + std::to_string(number), [this] { run(); }));
        }
    } catch (...) {
        stop();
        throw;
    }
}

void CompressPipeline::stop() noexcept {
    if (!fork_guard_.inherited()) {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
        changed_.notify_all();
    }
    for (std::thread& thread : threads_) {
        join_or_abandon(thread, fork_guard_);
    }
}

void CompressPipeline::run() {
    try {
        ChunkCompressor compressor(options_.codec, level_);
        std::vector<std::byte> bytes;
        std::unique_lock lock(mutex_);
        for (;;) {
            changed_.wait(lock, [this] {
                return stopping_ || error_ || claimed_ == chunks_ || claimed_ < taken_ + ready_.size();
            });
            if (stopping_ || error_ || claimed_ == chunks_) {
                return;
            }
            const std::uint64_t number = claimed_++;
            lock.unlock();
            PackedChunk chunk = pack(number, compressor, bytes);
            lock.lock();
            ready_[number % ready_.size()] = std::move(chunk);
            changed_.notify_all();
        }
    } catch (...) {
        const std::lock_guard lock(mutex_);
        if (!error_) {
            error_ = std::current_exception();
        }
        changed_.notify_all();
    }
}

PackedChunk CompressPipeline::pack(std::uint64_t number, ChunkCompressor& compressor, std::vector<std::byte>& bytes) {
    const std::uint64_t start = number * options_.chunk_bytes;
    bytes.resize(std::min(options_.chunk_bytes, source_.size() - start));
    const Extent extent = source_.extent_at(start, bytes.size());
    PackedChunk chunk;
    chunk.bytes = static_cast<std::uint32_t>(bytes.size());
    if (extent.kind == ExtentKind::zero && extent.size >= bytes.size()) {
        std::fill(bytes.begin(), bytes.end(), std::byte{0});
        chunk.zero = true;
    } else {
        const ReadResult result = source_.read(start, bytes);
        if (!result.ok()) {
            throw_read_error(source_, start, bytes.size(), result);
        }
        chunk.zero = is_zero(bytes);
    }
    chunk.checksum = static_cast<std::uint32_t>(xxh64(bytes));
    const std::span<const std::byte> frame = compressor.compress(bytes);
    chunk.frame.assign(frame.begin(), frame.end());
    return chunk;
}

std::optional<PackedChunk> CompressPipeline::take() {
    std::unique_lock lock(mutex_);
    std::optional<PackedChunk>& place = ready_[taken_ % ready_.size()];
    changed_.wait_for(lock, kPatience, [&] { return place.has_value() || error_; });
    if (error_) {
        std::rethrow_exception(error_);
    }
    if (!place) {
        return std::nullopt;
    }
    std::optional<PackedChunk> chunk = std::exchange(place, std::nullopt);
    ++taken_;
    changed_.notify_all();
    return chunk;
}

}  // namespace vmthaw
