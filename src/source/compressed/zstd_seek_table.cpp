#include "source/compressed/zstd_seek_table.hpp"

#include <array>
#include <vector>

#include "base/error.hpp"
#include "source/byte_cursor.hpp"

namespace vmthaw {
namespace {

constexpr std::uint64_t kSkippableHeaderBytes = 8;
constexpr std::uint8_t kReservedBits = 0x7C;  // the two bits below them are unused and may be anything

// Of bytes whose number was checked.
template <typename Value = std::uint32_t>
Value take(ByteCursor& cursor) {
    Value value = 0;
    (void)cursor.take(value);
    return value;
}

std::string entry_field(std::uint32_t entry, const char* member) {
    return "seek_table.entries[" + std::to_string(entry) + "]." + member;
}

}  // namespace

ChunkIndex read_zstd_seek_table(const std::string& path, std::uint64_t file_size, const FetchBytes& fetch) {
    std::array<std::byte, kZstdSeekFooterBytes> footer{};
    if (file_size < kSkippableHeaderBytes + footer.size() || !fetch(file_size - footer.size(), footer)) {
        refuse_index(path, "seek_table.footer", "the file is too short to have one");
    }
    ByteCursor at_footer(footer);
    const auto entries = take(at_footer);
    const auto descriptor = take<std::uint8_t>(at_footer);
    if (take(at_footer) != kZstdSeekableMagic) {
        refuse_index(
            path, "seek_table.magic",
            "the file does not end in a seek table of zstd's seekable format, nor does it begin as an LZ4 frame: "
            "was it cut, or written by plain zstd? compress_file() writes what can be read at any place");
    }
    if ((descriptor & kReservedBits) != 0) {
        refuse_index(path, "seek_table.descriptor", "reserved bits are set in " + hex(descriptor));
    }
    const bool has_checksums = (descriptor & kZstdSeekChecksums) != 0;
    const std::uint64_t entry_bytes = has_checksums ? 12 : 8;
    const std::uint64_t room = file_size - kSkippableHeaderBytes - footer.size();
    if (entries > room / entry_bytes) {
        refuse_index(path, "seek_table.entries",
                     std::to_string(entries) + " entries are more than a file of " + std::to_string(file_size) +
                         " bytes can hold");
    }
    if (entries > kMostChunks) {
        refuse_index(path, "seek_table.entries",
                     "there are more than " + std::to_string(kMostChunks) + " chunks: use larger ones");
    }
    const std::uint64_t frames_end = room - entries * entry_bytes;
    std::vector<std::byte> table(kSkippableHeaderBytes + entries * entry_bytes);
    if (!fetch(frames_end, table)) {
        refuse_index(path, "seek_table", "it cannot be read: did the file shrink?");
    }
    ByteCursor cursor(table);
    if (take(cursor) != kZstdSkippableMagic) {
        refuse_index(path, "seek_table.header",
                     "no skippable frame begins where " + std::to_string(entries) + " entries would (at " +
                         hex(frames_end) + ")");
    }
    if (const auto size = take(cursor); size != entries * entry_bytes + footer.size()) {
        refuse_index(path, "seek_table.size",
                     "the frame of the seek table is " + std::to_string(size) +
                         " bytes long, which is not what its entries take");
    }
    ChunkIndex index(ChunkCodec::zstd, has_checksums);
    std::uint64_t position = 0;
    for (std::uint32_t entry = 0; entry < entries; ++entry) {
        const auto packed = take(cursor);
        const auto bytes = take(cursor);
        const std::uint32_t checksum = has_checksums ? take(cursor) : 0;
        if (packed > frames_end - position) {
            refuse_index(path, entry_field(entry, "compressed_size"),
                         "frames of " + std::to_string(packed) + " bytes from " + hex(position) +
                             " on run into the seek table at " + hex(frames_end));
        }
        if (bytes != 0) {  // a frame without bytes is where some writers end
            index.add(path, position, bytes, packed, checksum);
        }
        position += packed;
    }
    if (position != frames_end) {
        refuse_index(path, "seek_table.entries",
                     "they tell of " + std::to_string(position) + " bytes, and " + std::to_string(frames_end) +
                         " lie before the table: was something put before or behind the frames?");
    }
    index.finish(path);
    return index;
}

}  // namespace vmthaw
