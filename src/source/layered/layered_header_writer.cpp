#include "source/layered/layered_header_writer.hpp"

#include <string>

#include "source/byte_writer.hpp"
#include "source/compressed/lz4_frame.hpp"
#include "source/layered/layered_columns.hpp"

namespace vmthaw {
namespace {

constexpr unsigned kVersionShift = 16;

void put_records(const LayeredHeader& header, ByteWriter& out) {
    for (const LayeredMapping& mapping : header.mappings) {
        out.put(mapping.offset);
        out.put(mapping.length);
        out.put(header.uuids[mapping.build]);
        out.put(mapping.storage);
    }
}

void put_builds(const LayeredHeader& header, ByteWriter& out) {
    out.put(static_cast<std::uint32_t>(header.builds.size()));
    for (const LayeredBuild& build : header.builds) {
        out.put(build.uuid);
        out.put(build.file_size);
        out.put(build.checksum);
        out.put(static_cast<std::uint32_t>(build.codec));
        out.put(static_cast<std::uint32_t>(build.frames.size()));
        for (const LayeredFrame& frame : build.frames) {
            out.put(frame.start);
            out.put(frame.compressed_start);
            out.put(frame.size);
            out.put(frame.compressed_size);
        }
    }
}

}  // namespace

std::vector<std::byte> write_layered_header(LayeredHeader header, std::uint16_t version) {
    header.version = version;
    check_layered_header(header);
    ByteWriter out;
    out.put(std::uint64_t{version} | header.version_rest << kVersionShift);
    out.put(header.block_size);
    out.put(header.size);
    out.put(header.generation);
    out.put(header.build);
    out.put(header.base_build);
    if (version <= 3) {
        for (std::size_t i = 0; i < header.builds.size(); ++i) {
            if (header.builds[i].codec != FrameCodec::none) {
                fail_layered_header(layered_field("builds", i, "frame type"),
                                    "version " + std::to_string(version) + " cannot say that build " +
                                        header.builds[i].uuid.text() + " is compressed; write version 4 or 5");
            }
        }
        put_records(header, out);
        return out.take();
    }
    ByteWriter payload;
    put_builds(header, payload);
    if (version == 4) {
        payload.put(static_cast<std::uint32_t>(header.mappings.size()));
        put_records(header, payload);
    } else {
        put_columns(header, payload);
    }
    if (payload.bytes().size() > kMostLayeredPayload) {
        fail_layered_header("uncompressed size", "it comes to " + std::to_string(payload.bytes().size()) +
                                                     " bytes; 256 MiB are the most (version 5 is smaller than 4)");
    }
    out.put(std::uint8_t{0});
    out.put(static_cast<std::uint32_t>(payload.bytes().size()));
    out.append(lz4_compress(payload.bytes()));
    return out.take();
}

}  // namespace vmthaw
