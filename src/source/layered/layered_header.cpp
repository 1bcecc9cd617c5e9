#include "source/layered/layered_header.hpp"

#include <algorithm>
#include <bit>

#include "base/error.hpp"
#include "base/page.hpp"

namespace vmthaw {
namespace {

constexpr std::uint64_t kSmallestBlock = 512;
constexpr std::uint64_t kLargestBlock = std::uint64_t{1} << 30U;
constexpr std::uint64_t kLargestNumber = std::uint64_t{1} << 62U;  // sums of two still fit

std::string uuid_field(std::size_t index, std::string_view member) { return layered_field("mappings", index, member); }

void check_fixed(const LayeredHeader& header) {
    if (header.version < 1 || header.version > 5) {
        fail_layered_header("version", "it is " + std::to_string(header.version) + "; 1 to 5 are known");
    }
    if (!std::has_single_bit(header.block_size) || header.block_size < kSmallestBlock ||
        header.block_size > kLargestBlock) {
        fail_layered_header("block size", "it is " + std::to_string(header.block_size) +
                                              "; it must be a power of two from 512 bytes to 1 GiB");
    }
    if (header.size == 0 || header.size > kLargestNumber) {
        fail_layered_header("size", "it is " + std::to_string(header.size) + "; it must be 1 to 2^62 bytes");
    }
}

void check_frames(const LayeredBuild& build, std::size_t index) {
    const std::string list = layered_field("builds", index, "frames");
    if (build.frames.size() > kMostLayeredFrames || (build.codec == FrameCodec::none && !build.frames.empty())) {
        fail_layered_header(list, "there are " + std::to_string(build.frames.size()) +
                                      (build.codec == FrameCodec::none ? " of a build that is not compressed"
                                                                       : "; at most 1048576 are read"));
    }
    std::uint64_t end = 0;
    std::uint64_t compressed_end = 0;
    for (std::size_t i = 0; i < build.frames.size(); ++i) {
        const LayeredFrame& frame = build.frames[i];
        if (frame.size == 0 || frame.size > INT32_MAX) {
            fail_layered_header(layered_field(list, i, "size"), "it is " + std::to_string(frame.size));
        }
        if (frame.compressed_size == 0 || frame.compressed_size > INT32_MAX) {
            fail_layered_header(layered_field(list, i, "compressed size"),
                                "it is " + std::to_string(frame.compressed_size));
        }
        if (frame.start < end || frame.start > kLargestNumber) {
            fail_layered_header(layered_field(list, i, "start"),
                                "it is " + hex(frame.start) + "; the frame before it ends at " + hex(end));
        }
        if (frame.compressed_start < compressed_end || frame.compressed_start > kLargestNumber) {
            fail_layered_header(
                layered_field(list, i, "compressed start"),
                "it is " + hex(frame.compressed_start) + "; the frame before it ends at " + hex(compressed_end));
        }
        end = frame.start + frame.size;
        compressed_end = frame.compressed_start + frame.compressed_size;
    }
}

void check_builds(const LayeredHeader& header) {
    for (std::size_t i = 0; i < header.builds.size(); ++i) {
        const LayeredBuild& build = header.builds[i];
        if (i > 0 && build.uuid <= header.builds[i - 1].uuid) {
            fail_layered_header(layered_field("builds", i, "build"), build.uuid.text() + " does not come after " +
                                                                         header.builds[i - 1].uuid.text() +
                                                                         "; builds must be sorted, each once");
        }
        if (build.file_size > kLargestNumber) {
            fail_layered_header(layered_field("builds", i, "file size"),
                                "it is negative, or beyond 2^62: " + hex(build.file_size));
        }
        check_frames(build, i);
    }
}

// True when frames, without a gap, hold [begin, end).
bool frames_hold(const std::vector<LayeredFrame>& frames, std::uint64_t begin, std::uint64_t end) {
    auto frame = std::upper_bound(frames.begin(), frames.end(), begin,
                                  [](std::uint64_t value, const LayeredFrame& one) { return value < one.start; });
    if (frame == frames.begin()) {
        return false;
    }
    for (frame = std::prev(frame); frame != frames.end() && frame->start <= begin; ++frame) {
        begin = std::max(begin, frame->start + frame->size);
        if (begin >= end) {
            return true;
        }
    }
    return false;
}

void check_storage(const LayeredHeader& header, const LayeredBuild& build, std::size_t index, std::uint64_t length) {
    const LayeredMapping& mapping = header.mappings[index];
    const std::uint64_t end = mapping.storage + length;
    const std::string range = hex(mapping.storage) + " to " + hex(end) + " of build " + build.uuid.text();
    if (build.file_size != 0 && end > round_up(build.file_size, kLayeredUnit)) {
        fail_layered_header(uuid_field(index, "storage"),
                            "it goes from " + range + ", which has " + std::to_string(build.file_size) + " bytes");
    }
    if (build.codec != FrameCodec::none && !frames_hold(build.frames, mapping.storage, end)) {
        fail_layered_header(uuid_field(index, "storage"), "no frames hold " + range);
    }
}

void check_mapping(const LayeredHeader& header, std::size_t index, std::uint64_t expected, std::uint64_t unit) {
    const LayeredMapping& mapping = header.mappings[index];
    const std::uint64_t limit = round_up(header.size, std::max(unit, kLayeredUnit));
    if (mapping.offset != expected) {
        fail_layered_header(
            uuid_field(index, "offset"),
            "it is " + hex(mapping.offset) + ", " +
                (mapping.offset < expected ? "before the end of what precedes it, " : "which leaves a gap after ") +
                hex(expected));
    }
    if (mapping.length == 0 || mapping.length > limit - std::min(limit, expected)) {
        fail_layered_header(uuid_field(index, "length"), "it is " + hex(mapping.length) + " at offset " +
                                                             hex(expected) + " of a size of " + hex(header.size));
    }
    const std::uint64_t end = expected + mapping.length;
    const bool is_last = end == header.size || end == round_up(header.size, kLayeredUnit);
    if (mapping.length % unit != 0 && !is_last) {
        fail_layered_header(uuid_field(index, "length"),
                            hex(mapping.length) + " is no multiple of a block, " + hex(unit));
    }
    if (mapping.build >= header.uuids.size()) {
        fail_layered_header(uuid_field(index, "build"), std::to_string(mapping.build) + " is none of the " +
                                                            std::to_string(header.uuids.size()) + " UUIDs");
    }
    if (header.uuids[mapping.build].is_nil()) {
        return;
    }
    if (mapping.storage % unit != 0 || mapping.storage > kLargestNumber) {
        fail_layered_header(uuid_field(index, "storage"),
                            hex(mapping.storage) + " is no multiple of a block, " + hex(unit) + ", or beyond 2^62");
    }
    if (const LayeredBuild* build = header.find_build(header.uuids[mapping.build]); build != nullptr) {
        check_storage(header, *build, index, std::min(mapping.length, header.size - expected));
    }
}

}  // namespace

std::string Uuid::text() const {
    constexpr std::string_view kDigits = "0123456789abcdef";
    std::string result;
    for (std::size_t i = 0; i < bytes.size(); ++i) {
        if (i == 4 || i == 6 || i == 8 || i == 10) {
            result += '-';
        }
        result += kDigits[std::to_integer<std::size_t>(bytes[i] >> 4U)];
        result += kDigits[std::to_integer<std::size_t>(bytes[i] & std::byte{15})];
    }
    return result;
}

const LayeredBuild* LayeredHeader::find_build(const Uuid& uuid) const noexcept {
    const auto found = std::lower_bound(builds.begin(), builds.end(), uuid,
                                        [](const LayeredBuild& one, const Uuid& value) { return one.uuid < value; });
    return found == builds.end() || found->uuid != uuid ? nullptr : &*found;
}

void fail_layered_header(const std::string& field, const std::string& why) {
    throw Error("bad layered header: " + field + ": " + why, "LayeredHeaderError", {{"field", field}});
}

std::string layered_field(std::string_view list, std::size_t index, std::string_view member) {
    return std::string(list) + "[" + std::to_string(index) + "]." + std::string(member);
}

void check_layered_header(const LayeredHeader& header) {
    check_fixed(header);
    check_builds(header);
    const std::uint64_t unit = header.version <= 3 ? header.block_size : std::min(header.block_size, kLayeredUnit);
    std::uint64_t end = 0;
    for (std::size_t i = 0; i < header.mappings.size(); ++i) {
        check_mapping(header, i, end, unit);
        end += header.mappings[i].length;
    }
    if (end < header.size) {
        fail_layered_header("mappings", "they end at " + hex(end) + ", before the size of " + hex(header.size));
    }
}

}  // namespace vmthaw
