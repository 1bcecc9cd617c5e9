#include "source/compressed/zstd_frame.hpp"

#include <zstd.h>

#include "source/compressed/chunk_compressor.hpp"

namespace vmthaw {

const char* zstd_decompress(std::span<const std::byte> frame, std::span<std::byte> out) noexcept {
    const std::size_t given = ZSTD_decompress(out.data(), out.size(), frame.data(), frame.size());
    if (ZSTD_isError(given) != 0) {
        return ZSTD_getErrorName(given);
    }
    return given == out.size() ? nullptr : "it decompresses to fewer bytes than it should";
}

std::vector<std::byte> zstd_compress(std::span<const std::byte> bytes, int level) {
    ChunkCompressor compressor(ChunkCodec::zstd, level);
    const std::span<const std::byte> frame = compressor.compress(bytes);
    return {frame.begin(), frame.end()};
}

}  // namespace vmthaw
