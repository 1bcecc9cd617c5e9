#include "source/compressed/chunk_compressor.hpp"

#include <lz4frame.h>
#include <zstd.h>

#include <new>
#include <string>

#include "base/error.hpp"

namespace vmthaw {
namespace {

int checked_level(ChunkCodec codec, int level) {
    constexpr int kFastestLz4 = -65536;
    constexpr int kBestLz4 = 12;
    const int least = codec == ChunkCodec::zstd ? ZSTD_minCLevel() : kFastestLz4;
    const int most = codec == ChunkCodec::zstd ? ZSTD_maxCLevel() : kBestLz4;
    if (level < least || level > most) {
        throw ArgumentError("level is " + std::to_string(level) + "; " + (codec == ChunkCodec::zstd ? "zstd" : "lz4") +
                            " has levels from " + std::to_string(least) + " to " + std::to_string(most));
    }
    return level;
}

std::size_t checked_size(std::size_t result, bool is_error) {
    if (is_error) {
        throw std::bad_alloc();  // the only error left: the destination is as large as the bound
    }
    return result;
}

}  // namespace

struct ChunkCompressor::Contexts {
    struct Free {
        void operator()(ZSTD_CCtx* context) const noexcept { ZSTD_freeCCtx(context); }
    };
    std::unique_ptr<ZSTD_CCtx, Free> zstd;
};

ChunkCompressor::ChunkCompressor(ChunkCodec codec, int level)
    : codec_(codec), level_(checked_level(codec, level)), contexts_(std::make_unique<Contexts>()) {
    if (codec == ChunkCodec::zstd) {
        contexts_->zstd.reset(ZSTD_createCCtx());
        if (!contexts_->zstd ||
            ZSTD_isError(ZSTD_CCtx_setParameter(contexts_->zstd.get(), ZSTD_c_compressionLevel, level)) != 0 ||
            ZSTD_isError(ZSTD_CCtx_setParameter(contexts_->zstd.get(), ZSTD_c_checksumFlag, 1)) != 0) {
            throw std::bad_alloc();
        }
    }
}

ChunkCompressor::~ChunkCompressor() = default;

std::span<const std::byte> ChunkCompressor::compress(std::span<const std::byte> bytes) {
    std::size_t size = 0;
    if (codec_ == ChunkCodec::zstd) {
        frame_.resize(ZSTD_compressBound(bytes.size()));
        size = ZSTD_compress2(contexts_->zstd.get(), frame_.data(), frame_.size(), bytes.data(), bytes.size());
        checked_size(size, ZSTD_isError(size) != 0);
    } else {
        LZ4F_preferences_t preferences{};
        preferences.frameInfo.blockSizeID = LZ4F_max4MB;
        preferences.frameInfo.blockMode = LZ4F_blockIndependent;
        preferences.frameInfo.contentChecksumFlag = LZ4F_contentChecksumEnabled;
        preferences.frameInfo.contentSize = bytes.size();
        preferences.compressionLevel = level_;
        frame_.resize(LZ4F_compressFrameBound(bytes.size(), &preferences));
        size = LZ4F_compressFrame(frame_.data(), frame_.size(), bytes.data(), bytes.size(), &preferences);
        checked_size(size, LZ4F_isError(size) != 0);
    }
    return std::span(frame_).first(size);
}

}  // namespace vmthaw
