#include "source/compressed/lz4_frame.hpp"

#include <lz4frame.h>

#include <memory>
#include <new>

namespace vmthaw {
namespace {

struct FreeDecompression {
    void operator()(LZ4F_dctx* context) const noexcept { LZ4F_freeDecompressionContext(context); }
};

}  // namespace

const char* lz4_decompress(std::span<const std::byte> frame, std::span<std::byte> out) noexcept {
    LZ4F_dctx* made = nullptr;
    if (LZ4F_isError(LZ4F_createDecompressionContext(&made, LZ4F_VERSION)) != 0) {
        return "there is no memory for it";
    }
    const std::unique_ptr<LZ4F_dctx, FreeDecompression> context(made);
    std::size_t taken = 0;
    std::size_t given = 0;
    std::byte beyond{};  // room for one byte more than there may be
    for (;;) {
        const bool full = given == out.size();
        std::size_t room = full ? sizeof beyond : out.size() - given;
        std::size_t piece = frame.size() - taken;
        const std::size_t wanted = LZ4F_decompress(context.get(), full ? &beyond : out.data() + given, &room,
                                                   frame.data() + taken, &piece, nullptr);
        if (LZ4F_isError(wanted) != 0) {
            return LZ4F_getErrorName(wanted);
        }
        if (full && room > 0) {
            return "it decompresses to more bytes than it should";
        }
        taken += piece;
        given += room;
        if (wanted == 0) {
            break;
        }
        if (room == 0 && piece == 0) {
            return "the frame is cut short";
        }
    }
    if (given != out.size()) {
        return "it decompresses to fewer bytes than it should";
    }
    return taken == frame.size() ? nullptr : "bytes follow the frame";
}

std::vector<std::byte> lz4_compress(std::span<const std::byte> bytes) {
    LZ4F_preferences_t preferences{};
    preferences.frameInfo.blockSizeID = LZ4F_max4MB;
    preferences.frameInfo.blockChecksumFlag = LZ4F_blockChecksumEnabled;
    preferences.frameInfo.contentChecksumFlag = LZ4F_contentChecksumEnabled;
    std::vector<std::byte> frame(LZ4F_compressFrameBound(bytes.size(), &preferences));
    const std::size_t size = LZ4F_compressFrame(frame.data(), frame.size(), bytes.data(), bytes.size(), &preferences);
    if (LZ4F_isError(size) != 0) {
        throw std::bad_alloc();  // the only error left: the destination is as large as the bound
    }
    frame.resize(size);
    return frame;
}

}  // namespace vmthaw
