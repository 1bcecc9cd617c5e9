#include "source/layered/layered_header_reader.hpp"

#include <map>
#include <string>

#include "base/page.hpp"
#include "source/byte_cursor.hpp"
#include "source/compressed/lz4_frame.hpp"
#include "source/layered/layered_columns.hpp"

namespace vmthaw {
namespace {

constexpr std::uint64_t kVersionBits = 16;
constexpr std::size_t kBuildBytes = 16 + 8 + 32 + 4 + 4;
constexpr std::size_t kFrameBytes = 8 + 8 + 4 + 4;
constexpr std::size_t kBestLz4Ratio = 256;  // 255 bytes for one at most, and the frame has some of its own

// UUIDs and the number that each got.
class UuidNumbers {
public:
    explicit UuidNumbers(std::vector<Uuid>& uuids) : uuids_(uuids) {}
    std::uint32_t number(const Uuid& uuid) {
        const auto [found, is_new] = numbers_.try_emplace(uuid, static_cast<std::uint32_t>(uuids_.size()));
        if (is_new) {
            uuids_.push_back(uuid);
        }
        return found->second;
    }

private:
    std::vector<Uuid>& uuids_;
    std::map<Uuid, std::uint32_t> numbers_;
};

void take_fixed(ByteCursor& cursor, LayeredHeader& header) {
    std::uint64_t version = 0;
    const std::size_t all = cursor.left();
    if (!cursor.take(version) || !cursor.take(header.block_size) || !cursor.take(header.size) ||
        !cursor.take(header.generation) || !cursor.take(header.build) || !cursor.take(header.base_build)) {
        fail_layered_header("header", "it has " + std::to_string(all) + " bytes; 64 come first in every version");
    }
    header.version = static_cast<std::uint16_t>(version);
    header.version_rest = version >> kVersionBits;
    LayeredHeader fixed = header;
    fixed.mappings = {{0, round_up(header.size, kLayeredUnit), 0, 0}};
    fixed.uuids = {Uuid{}};
    check_layered_header(fixed);  // before anything is made of the rest
}

void take_records(ByteCursor& cursor, LayeredHeader& header, std::size_t count) {
    UuidNumbers numbers(header.uuids);
    header.mappings.reserve(count);
    for (std::size_t i = 0; i < count; ++i) {
        LayeredMapping mapping{};
        Uuid uuid;
        (void)(cursor.take(mapping.offset) && cursor.take(mapping.length) && cursor.take(uuid) &&
               cursor.take(mapping.storage));  // there are so many, as counted
        mapping.build = numbers.number(uuid);
        header.mappings.push_back(mapping);
    }
}

void take_plain_records(ByteCursor& cursor, LayeredHeader& header) {
    if (cursor.left() % kLayeredRecordBytes != 0) {
        fail_layered_header(
            "mappings", "the last of " + std::to_string(cursor.left()) + " bytes of records is cut: each has 40 bytes");
    }
    if (cursor.left() == 0) {
        header.uuids = {header.build};
        header.mappings = {{0, round_up(header.size, kLayeredUnit), 0, 0}};
        return;
    }
    take_records(cursor, header, cursor.left() / kLayeredRecordBytes);
}

void take_counted_records(ByteCursor& cursor, LayeredHeader& header) {
    std::uint32_t count = 0;
    if (!cursor.take(count) || count * std::uint64_t{kLayeredRecordBytes} != cursor.left()) {
        fail_layered_header("mappings", std::to_string(count) + " records of 40 bytes do not make the " +
                                            std::to_string(cursor.left()) + " bytes that are left");
    }
    take_records(cursor, header, count);
}

void take_frames(ByteCursor& cursor, LayeredBuild& build, std::size_t index) {
    std::uint32_t codec = 0;
    std::uint32_t count = 0;
    (void)(cursor.take(codec) && cursor.take(count));  // counted with the build
    if (codec > static_cast<std::uint32_t>(FrameCodec::lz4)) {
        fail_layered_header(layered_field("builds", index, "frame type"),
                            "it is " + std::to_string(codec) + "; 0 (none), 1 (zstd) and 2 (lz4) are known");
    }
    build.codec = static_cast<FrameCodec>(codec);
    if (count > kMostLayeredFrames || count > cursor.left() / kFrameBytes) {
        fail_layered_header(layered_field("builds", index, "frame count"),
                            "it is " + std::to_string(count) + "; " + std::to_string(cursor.left()) +
                                " bytes are left, 24 for each, and 1048576 frames are the most");
    }
    build.frames.reserve(count);
    for (std::uint32_t i = 0; i < count; ++i) {
        LayeredFrame frame{};
        (void)(cursor.take(frame.start) && cursor.take(frame.compressed_start) && cursor.take(frame.size) &&
               cursor.take(frame.compressed_size));
        build.frames.push_back(frame);
    }
}

void take_builds(ByteCursor& cursor, LayeredHeader& header) {
    std::uint32_t count = 0;
    if (!cursor.take(count) || count > cursor.left() / kBuildBytes) {
        fail_layered_header("builds", std::to_string(count) + " builds need 64 bytes each; " +
                                          std::to_string(cursor.left()) + " are left");
    }
    header.builds.reserve(count);
    for (std::uint32_t i = 0; i < count; ++i) {
        LayeredBuild build;
        if (cursor.left() < kBuildBytes) {
            fail_layered_header(layered_field("builds", i, "build"), "the section ends in it");
        }
        (void)(cursor.take(build.uuid) && cursor.take(build.file_size) && cursor.take(build.checksum));
        take_frames(cursor, build, i);
        header.builds.push_back(std::move(build));
    }
}

// Flags, the size and the LZ4 frame: what versions 4 and 5 put behind the fixed part.
std::vector<std::byte> take_payload(ByteCursor& cursor) {
    std::uint8_t flags = 0;
    std::uint32_t size = 0;
    if (!cursor.take(flags) || !cursor.take(size)) {
        fail_layered_header("flags", "the header ends before them or before the uncompressed size behind them");
    }
    if (flags != 0) {
        fail_layered_header("flags", (flags & 1U) != 0 ? "the header is incomplete: its build was never finished"
                                                       : "bits are set that nobody has given a meaning");
    }
    if (size > kMostLayeredPayload || size / kBestLz4Ratio > cursor.left()) {
        fail_layered_header("uncompressed size", "it is " + std::to_string(size) + " bytes, out of " +
                                                     std::to_string(cursor.left()) +
                                                     "; 256 MiB are the most, and more than LZ4 can do is a lie");
    }
    std::vector<std::byte> payload(size);
    if (const char* why = lz4_decompress(cursor.rest(), payload); why != nullptr) {
        fail_layered_header("LZ4 frame", why);
    }
    return payload;
}

}  // namespace

LayeredHeader read_layered_header(std::span<const std::byte> bytes) {
    LayeredHeader header;
    ByteCursor cursor(bytes);
    take_fixed(cursor, header);
    if (header.version <= 3) {
        take_plain_records(cursor, header);
    } else {
        const std::vector<std::byte> payload = take_payload(cursor);
        ByteCursor inner(payload);
        take_builds(inner, header);
        if (header.version == 4) {
            take_counted_records(inner, header);
        } else {
            take_columns(inner, header);
        }
    }
    if (header.mappings.size() > 2 * kMostLayeredMappings) {
        fail_layered_header("mappings", "there are " + std::to_string(header.mappings.size()) + "; too many");
    }
    check_layered_header(header);
    return header;
}

}  // namespace vmthaw
