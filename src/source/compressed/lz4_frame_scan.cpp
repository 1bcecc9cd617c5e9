#include "source/compressed/lz4_frame_scan.hpp"

#include <lz4frame.h>

#include <algorithm>
#include <array>
#include <memory>
#include <new>
#include <optional>
#include <vector>

#include "source/byte_cursor.hpp"

namespace vmthaw {
namespace {

constexpr std::uint32_t kLz4Magic = 0x184D2204;
constexpr std::uint32_t kLegacyMagic = 0x184C2102;
constexpr std::uint32_t kSkippableMagic = 0x184D2A50;
constexpr std::uint32_t kSkippableMask = 0xFFFFFFF0;
constexpr std::uint32_t kRawBlock = 0x80000000;
constexpr std::uint64_t kShortestHeader = 7;
constexpr std::uint64_t kWindow = 4096;

std::uint32_t magic_number(std::span<const std::byte> bytes) {
    std::uint32_t value = 0;
    (void)ByteCursor(bytes).take(value);
    return value;
}

struct FreeScanContext {
    void operator()(LZ4F_dctx* context) const noexcept { LZ4F_freeDecompressionContext(context); }
};

// Small reads out of a larger one.
class HeaderWindow {
public:
    HeaderWindow(std::uint64_t file_size, const FetchBytes& fetch) : fetch_(fetch), file_size_(file_size) {}

    // Up to `most` bytes at `position`, fewer at the end of the file; nullopt when they cannot be read.
    std::optional<std::span<const std::byte>> at(std::uint64_t position, std::uint64_t most) {
        const std::uint64_t size = std::min(most, file_size_ - std::min(file_size_, position));
        const bool inside =
            position >= start_ && position - start_ <= bytes_.size() && bytes_.size() - (position - start_) >= size;
        if (!inside) {
            bytes_.resize(std::min(kWindow, file_size_ - position));
            start_ = position;
            if (!fetch_(position, bytes_)) {
                return std::nullopt;
            }
        }
        return std::span<const std::byte>(bytes_).subspan(position - start_, size);
    }

private:
    const FetchBytes& fetch_;
    std::uint64_t file_size_;
    std::uint64_t start_ = 0;
    std::vector<std::byte> bytes_;
};

class Scan {
public:
    Scan(const std::string& path, std::uint64_t file_size, const FetchBytes& fetch)
        : path_(path), file_size_(file_size), window_(file_size, fetch) {
        LZ4F_dctx* made = nullptr;
        if (LZ4F_isError(LZ4F_createDecompressionContext(&made, LZ4F_VERSION)) != 0) {
            throw std::bad_alloc();
        }
        context_.reset(made);
    }

    ChunkIndex run() {
        while (position_ < file_size_) {
            const std::uint32_t magic = magic_number(need(4, "magic"));
            if ((magic & kSkippableMask) == kSkippableMagic) {
                skip();
            } else if (magic == kLz4Magic) {
                frame();
            } else {
                fail("magic", magic == kLegacyMagic
                                  ? "this is a legacy frame, which does not say how long its contents are"
                                  : "neither an LZ4 frame nor a skippable one begins here");
            }
        }
        index_.finish(path_);
        return std::move(index_);
    }

private:
    [[noreturn]] void fail(const char* member, const std::string& why) const {
        refuse_index(path_, "frames[" + std::to_string(number_) + "]." + member,
                     why + " (at " + std::to_string(position_) + ")");
    }

    std::span<const std::byte> need(std::uint64_t bytes, const char* member) {
        const auto found = window_.at(position_, bytes);
        if (!found) {
            fail(member, "it cannot be read: did the file shrink?");
        }
        if (found->size() < bytes) {
            fail(member, "the file ends in it");
        }
        return *found;
    }

    void advance(std::uint64_t bytes, const char* member) {
        if (bytes > file_size_ - position_) {
            fail(member, "its " + std::to_string(bytes) + " bytes run over the end of the file");
        }
        position_ += bytes;
    }

    void skip() {
        const std::uint32_t size = magic_number(need(8, "skippable").subspan(4));
        advance(8, "skippable");
        advance(size, "skippable");
        ++number_;
    }

    LZ4F_frameInfo_t header() {
        need(kShortestHeader, "header");
        const auto bytes = window_.at(position_, LZ4F_HEADER_SIZE_MAX).value_or(std::span<const std::byte>{});
        LZ4F_frameInfo_t info{};
        std::size_t taken = bytes.size();
        LZ4F_resetDecompressionContext(context_.get());
        const std::size_t result = LZ4F_getFrameInfo(context_.get(), &info, bytes.data(), &taken);
        if (LZ4F_isError(result) != 0) {
            fail("header", LZ4F_getErrorName(result));
        }
        if (info.contentSize == 0) {
            fail("content_size",
                 "the frame does not say how long its contents are; compress each chunk to a frame "
                 "with its size (lz4 --content-size, or compress_file)");
        }
        if (info.dictID != 0) {
            fail("dictionary_id", "the frame needs a dictionary, which nobody has");
        }
        advance(taken, "header");
        return info;
    }

    void frame() {
        const std::uint64_t start = position_;
        const LZ4F_frameInfo_t info = header();
        const std::uint64_t largest = std::uint64_t{1} << (8 + 2 * static_cast<unsigned>(info.blockSizeID));
        const std::uint64_t checksum = info.blockChecksumFlag == LZ4F_blockChecksumEnabled ? 4 : 0;
        for (;;) {
            const std::uint32_t word = magic_number(need(4, "block"));
            advance(4, "block");
            if (word == 0) {
                break;
            }
            const std::uint32_t size = word & ~kRawBlock;
            if (size > largest) {
                fail("block", "it has " + std::to_string(size) + " bytes, and a block of this frame at most " +
                                  std::to_string(largest));
            }
            advance(size + checksum, "block");
        }
        if (info.contentChecksumFlag == LZ4F_contentChecksumEnabled) {
            advance(4, "checksum");
        }
        index_.add(path_, start, info.contentSize, position_ - start);
        ++number_;
    }

    const std::string& path_;
    std::uint64_t file_size_;
    HeaderWindow window_;
    std::unique_ptr<LZ4F_dctx, FreeScanContext> context_;
    ChunkIndex index_{ChunkCodec::lz4, false};
    std::uint64_t position_ = 0;
    std::uint64_t number_ = 0;  // of the frame, skippable ones among them
};

}  // namespace

bool is_lz4_magic(std::span<const std::byte, 4> magic) noexcept {
    const std::uint32_t value = magic_number(magic);
    return value == kLz4Magic || value == kLegacyMagic;
}

ChunkIndex scan_lz4_frames(const std::string& path, std::uint64_t file_size, const FetchBytes& fetch) {
    return Scan(path, file_size, fetch).run();
}

}  // namespace vmthaw
