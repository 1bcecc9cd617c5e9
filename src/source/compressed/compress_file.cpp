#include "source/compressed/compress_file.hpp"

#include <chrono>

#include "base/error.hpp"
#include "source/byte_writer.hpp"
#include "source/compressed/compress_pipeline.hpp"
#include "source/compressed/partial_file.hpp"
#include "source/compressed/zstd_seek_table.hpp"

namespace vmthaw {
namespace {

constexpr std::chrono::milliseconds kProgressInterval{100};

// The table's entries are collected as they will be written.
ByteWriter seek_table(const ByteWriter& entries, std::uint64_t count) {
    ByteWriter table;
    table.put(kZstdSkippableMagic);
    table.put(static_cast<std::uint32_t>(entries.bytes().size() + kZstdSeekFooterBytes));
    table.append(entries.bytes());
    table.put(static_cast<std::uint32_t>(count));
    table.put(kZstdSeekChecksums);
    table.put(kZstdSeekableMagic);
    return table;
}

}  // namespace

CompressResult compress_file(PageSource& source, const std::string& path, const CompressOptions& options,
                             const CompressProgress& progress) {
    using Clock = std::chrono::steady_clock;
    CompressPipeline pipeline(source, options);
    PartialFile file(path);
    ByteWriter entries;
    CompressResult result;
    auto last_report = Clock::now();
    while (result.chunks < pipeline.chunks()) {
        if (const auto chunk = pipeline.take()) {
            file.append(chunk->frame);
            entries.put(static_cast<std::uint32_t>(chunk->frame.size()));
            entries.put(chunk->bytes);
            entries.put(chunk->checksum);
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
        file.append(seek_table(entries, result.chunks).bytes());
    }
    result.packed_bytes = file.size();
    if (progress) {
        progress(result.bytes, source.size());
    }
    file.finish();
    return result;
}

}  // namespace vmthaw
