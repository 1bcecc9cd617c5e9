#include "source/zstd_frame.hpp"

#include <zstd.h>

#include <memory>
#include <new>

namespace vmthaw {
namespace {

struct FreeCompression {
    void operator()(ZSTD_CCtx* context) const noexcept { ZSTD_freeCCtx(context); }
};

}  // namespace

const char* zstd_decompress(std::span<const std::byte> frame, std::span<std::byte> out) noexcept {
    const std::size_t given = ZSTD_decompress(out.data(), out.size(), frame.data(), frame.size());
    if (ZSTD_isError(given) != 0) {
        return ZSTD_getErrorName(given);
    }
    return given == out.size() ? nullptr : "it decompresses to fewer bytes than it should";
}

std::vector<std::byte> zstd_compress(std::span<const std::byte> bytes, int level) {
    const std::unique_ptr<ZSTD_CCtx, FreeCompression> context(ZSTD_createCCtx());
    std::vector<std::byte> frame(ZSTD_compressBound(bytes.size()));
    if (!context || ZSTD_isError(ZSTD_CCtx_setParameter(context.get(), ZSTD_c_compressionLevel, level)) != 0 ||
        ZSTD_isError(ZSTD_CCtx_setParameter(context.get(), ZSTD_c_checksumFlag, 1)) != 0) {
        throw std::bad_alloc();
    }
    const std::size_t size = ZSTD_compress2(context.get(), frame.data(), frame.size(), bytes.data(), bytes.size());
    if (ZSTD_isError(size) != 0) {
        throw std::bad_alloc();  // the only error left: the destination is as large as the bound
    }
    frame.resize(size);
    return frame;
}

}  // namespace vmthaw
