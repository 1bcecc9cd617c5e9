#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "source/compressed/chunk_index.hpp"
#include "source/compressed/compress_file.hpp"
#include "source/compressed/lz4_frame_scan.hpp"
#include "source/compressed/zstd_seek_table.hpp"
#include "source/file/file_source.hpp"
#include "source_support.hpp"

namespace vmthaw::source_tests {

using Bytes = std::vector<std::byte>;

template <typename Value>
void put_value(Bytes& bytes, Value value) {
    for (const std::byte byte : std::as_bytes(std::span(&value, 1))) {  // GCC 12 warns falsely about an insert here
        bytes.push_back(byte);
    }
}

// Reads an index out of memory.
inline ChunkIndex index_of(const Bytes& bytes, bool lz4) {
    const auto fetch = [&bytes](std::uint64_t position, std::span<std::byte> out) {
        if (position > bytes.size() || out.size() > bytes.size() - position) {
            return false;
        }
        std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(position), out.size(), out.begin());
        return true;
    };
    return lz4 ? scan_lz4_frames("memory", bytes.size(), fetch) : read_zstd_seek_table("memory", bytes.size(), fetch);
}

// What the error names, or "" when there was none.
inline std::string field_of(const Bytes& bytes, bool lz4) {
    try {
        static_cast<void>(index_of(bytes, lz4));
        return "";
    } catch (const Error& error) {
        EXPECT_EQ(error.class_name(), "SourceOpenError");
        for (const auto& [name, value] : error.fields()) {
            if (name == "field") {
                return std::get<std::string>(value);
            }
        }
        return "no field";
    }
}

// A memory of `pages` pages, of which those from `hole` to `hole_end` are zeros, and the file that it was packed to.
class PackedMemory {
public:
    PackedMemory(const CompressOptions& options, std::uint64_t bytes, std::uint64_t hole = 0,
                 std::uint64_t hole_end = 0)
        : bytes_(bytes_at(0, bytes)) {
        memory_.fill(0, bytes);
        if (hole_end > hole) {
            memory_.punch(hole, hole_end - hole);
            std::fill(bytes_.begin() + static_cast<std::ptrdiff_t>(hole),
                      bytes_.begin() + static_cast<std::ptrdiff_t>(hole_end), std::byte{0});
        }
        FileSource source(memory_.path());
        result_ = compress_file(source, packed_.path(), options, {});
    }
    [[nodiscard]] const std::string& path() const { return packed_.path(); }
    [[nodiscard]] const Bytes& bytes() const { return bytes_; }
    [[nodiscard]] const CompressResult& result() const { return result_; }
    [[nodiscard]] UniqueFd open() const {
        return UniqueFd(check_errno(::open(path().c_str(), O_RDWR | O_CLOEXEC), "open"));
    }
    void flip(std::uint64_t position) const {
        const UniqueFd fd = open();
        std::byte byte{};
        check_errno_long(::pread(fd.get(), &byte, 1, static_cast<off_t>(position)), "pread");
        byte ^= std::byte{0x40};
        check_errno_long(::pwrite(fd.get(), &byte, 1, static_cast<off_t>(position)), "pwrite");
    }

private:
    TemporaryFile memory_;
    TemporaryFile packed_;
    Bytes bytes_;
    CompressResult result_;
};

}  // namespace vmthaw::source_tests
