#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace vmthaw {

// The layered-memory header that E2B and Wrenn write, as plain values. `read_layered_header`
// (layered_header_reader.hpp) and `write_layered_header` (layered_header_writer.hpp) turn bytes into them and back. No
// thread rules.

struct Uuid {
    std::array<std::byte, 16> bytes{};

    [[nodiscard]] bool is_nil() const noexcept { return *this == Uuid{}; }
    [[nodiscard]] std::string text() const;
    auto operator<=>(const Uuid&) const noexcept = default;
};

enum class FrameCodec : std::uint8_t { none, zstd, lz4 };

// `size` bytes at `start` of what the build is when decompressed, out of `compressed_size` at `compressed_start` of its
// file.
struct LayeredFrame {
    std::uint64_t start;
    std::uint64_t compressed_start;
    std::uint32_t size;
    std::uint32_t compressed_size;
    bool operator==(const LayeredFrame&) const noexcept = default;
};

// What versions 4 and 5 say of a build. A size of 0 and a checksum of zeros are unknown.
struct LayeredBuild {
    Uuid uuid;
    std::uint64_t file_size = 0;
    std::array<std::byte, 32> checksum{};
    FrameCodec codec = FrameCodec::none;
    std::vector<LayeredFrame> frames;  // by start; those that mappings use
    bool operator==(const LayeredBuild&) const noexcept = default;
};

// [offset, offset + length) of the memory is at `storage` of `uuids[build]`, or zeros where that is nil.
struct LayeredMapping {
    std::uint64_t offset;
    std::uint64_t length;
    std::uint64_t storage;
    std::uint32_t build;
    bool operator==(const LayeredMapping&) const noexcept = default;
};

struct LayeredHeader {
    std::uint16_t version = 5;
    std::uint64_t version_rest = 0;  // the 48 bits above the version, which nobody has given a meaning
    std::uint64_t block_size = 4096;
    std::uint64_t size = 0;
    std::uint64_t generation = 0;
    Uuid build;
    Uuid base_build;
    std::vector<LayeredBuild> builds;  // by UUID
    std::vector<Uuid> uuids;           // what mappings point into, each once
    std::vector<LayeredMapping> mappings;
    bool operator==(const LayeredHeader&) const noexcept = default;

    // What is known of a build, or null.
    [[nodiscard]] const LayeredBuild* find_build(const Uuid& uuid) const noexcept;
};

inline constexpr std::uint64_t kLayeredUnit = 4096;
inline constexpr std::size_t kLayeredFixedBytes = 64;
inline constexpr std::size_t kLayeredRecordBytes = 40;
inline constexpr std::size_t kMostLayeredPayload = std::size_t{256} << 20U;
inline constexpr std::size_t kMostLayeredMappings = std::size_t{8} << 20U;
inline constexpr std::size_t kMostLayeredFrames = std::size_t{1} << 20U;

// What every header must be, whoever made it: mappings sorted, without overlap, aligned and covering the size; frame
// tables in order; storage within what is known of its build. Throws Error(LayeredHeaderError), `field` says where.
void check_layered_header(const LayeredHeader& header);
[[noreturn]] void fail_layered_header(const std::string& field, const std::string& why);
// "mappings[3].offset".
[[nodiscard]] std::string layered_field(std::string_view list, std::size_t index, std::string_view member);

}  // namespace vmthaw
