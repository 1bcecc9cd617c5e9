#include "source/compress_file.hpp"

#include <chrono>
#include <cstring>
#include <limits>
#include <vector>

#include "base/error.hpp"
#include "source/compress_pipeline.hpp"
#include "source/partial_file.hpp"
#include "source/zstd_seek_table.hpp"

namespace vmthaw {
namespace {

constexpr std::chrono::milliseconds kProgressInterval{100};

void put_number(std::vector<std::byte>& out, std::uint32_t value) {
    const auto bytes = std::as_bytes(std::span(&value, 1));
    out.insert(out.end(), bytes.begin(), bytes.end());
}

// The table's entries are collected as they will be written.
std::vector<std::byte> seek_table(const std::vector<std::byte>& entries, std::uint64_t count) {
    std::vector<std::byte> table;
    table.reserve(entries.size() + 17);
    put_number(table, kZstdSkippableMagic);
    put_number(table, static_cast<std::uint32_t>(entries.size() + kZstdSeekFooterBytes));
    table.insert(table.end(), entries.begin(), entries.end());
    put_number(table, static_cast<std::uint32_t>(count));
    table.push_back(std::byte{kZstdSeekChecksums});
    put_number(table, kZstdSeekableMagic);
    return table;
}

}  // namespace

CompressResult compress_file(PageSource& source, const std::string& path, const CompressOptions& options,
                             const CompressProgress& progress) {
    using Clock = std::chrono::steady_clock;
    CompressPipeline pipeline(source, options);
    PartialFile file(path);
    std::vector<std::byte> entries;
    CompressResult result;
    auto last_report = Clock::now();
    while (result.chunks < pipeline.chunks()) {
        if (const auto chunk = pipeline.take()) {
            file.append(chunk->frame);
            put_number(entries, static_cast<std::uint32_t>(chunk->frame.size()));
            put_number(entries, chunk->bytes);
            put_number(entries, chunk->checksum);
            ++result.chunks;
            result.zero_chunks += chunk->zero ? 1 : 0;
            result.bytes += chunk->bytes;
        }
        if (progress && Clock::now() - last_report >= kProgressInterval) {
            progress(result.bytes, source.size());
            last_report = Clock::now();
        }
    }
    if (options.codec == ChunkCodec::zstd) {
        file.append(seek_table(entries, result.chunks));
    }
    result.packed_bytes = file.size();
    if (progress) {
        progress(result.bytes, source.size());
    }
    file.finish();
    return result;
}

}  // namespace vmthaw
