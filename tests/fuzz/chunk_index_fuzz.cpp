#include <algorithm>
#include <cstdint>
#include <span>
#include <string>

#include "base/error.hpp"
#include "fuzz_check.hpp"
#include "source/compressed/lz4_frame_scan.hpp"
#include "source/compressed/zstd_seek_table.hpp"

// The indexes of compressed files: whatever the bytes are, there is a SourceOpenError that names a field, or chunks
// that follow one another in the memory and lie in the file.
namespace {

using vmthaw::Chunk;
using vmthaw::ChunkIndex;

void check_index(const ChunkIndex& index, std::uint64_t file_size) {
    FUZZ_CHECK(index.count() > 0 && index.count() <= vmthaw::kMostChunks);
    std::uint64_t start = 0;
    std::uint64_t position = 0;
    for (std::size_t number = 0; number < index.count(); ++number) {
        const Chunk& chunk = index[number];
        FUZZ_CHECK(chunk.start == start && chunk.position >= position);
        FUZZ_CHECK(chunk.bytes > 0 && chunk.bytes <= vmthaw::kLargestChunk && chunk.bytes <= index.largest());
        FUZZ_CHECK(chunk.packed_bytes > 0 && chunk.position <= file_size &&
                   chunk.packed_bytes <= file_size - chunk.position);
        FUZZ_CHECK(number + 1 == index.count() || chunk.bytes % 4096 == 0);
        FUZZ_CHECK(index.find(start) == number && index.find(start + chunk.bytes - 1) == number);
        start += chunk.bytes;
        position = chunk.position + chunk.packed_bytes;
    }
    FUZZ_CHECK(start == index.size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto bytes = std::as_bytes(std::span(data, size));
    const auto fetch = [bytes](std::uint64_t position, std::span<std::byte> out) {
        FUZZ_CHECK(position <= bytes.size());
        if (out.size() > bytes.size() - position) {
            return false;
        }
        std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(position), out.size(), out.begin());
        return true;
    };
    try {
        const bool lz4 = size >= 4 && vmthaw::is_lz4_magic(bytes.first<4>());
        const std::string path = "fuzz";
        check_index(lz4 ? vmthaw::scan_lz4_frames(path, size, fetch) : vmthaw::read_zstd_seek_table(path, size, fetch),
                    size);
    } catch (const vmthaw::Error& error) {
        FUZZ_CHECK(error.class_name() == "SourceOpenError");
        FUZZ_CHECK(std::ranges::any_of(error.fields(), [](const auto& field) { return field.first == "field"; }));
    }
    return 0;
}
