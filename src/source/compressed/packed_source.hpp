#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "source/compressed/chunked_source.hpp"

namespace vmthaw {

// A chunk of a packed memory: the hash that names its file, and what is in that. Zeros have no file.
struct PackedEntry {
    std::array<std::byte, 32> hash{};
    std::uint32_t packed_bytes = 0;
    std::uint32_t checksum = 0;  // the low half of XXH64
    bool zero = false;
};

// "chunks/ab/cdef....zst" for a hash that begins with ab.
[[nodiscard]] std::string chunk_path(std::span<const std::byte, 32> hash, ChunkCodec codec);

// A memory whose chunks are files named by their hashes below `directory`, as `vmthaw snapshot pack` writes them; each
// file is opened when its chunk is wanted, and equal chunks are held once. Thread-safe. The constructor throws
// Error(SourceOpenError).
class PackedSource final : public ChunkedSource {
public:
    PackedSource(std::string directory, std::string name, ChunkCodec codec, std::uint64_t size,
                 std::uint64_t chunk_bytes, std::vector<PackedEntry> entries,
                 std::uint64_t cache_bytes = kDefaultCacheBytes);

    [[nodiscard]] std::string description() const override { return "packed:" + directory_ + "/" + name_; }

protected:
    [[nodiscard]] ReadResult fetch(std::size_t chunk, std::vector<std::byte>& packed) override;
    [[nodiscard]] std::string place_of(std::size_t chunk) const override;
    [[nodiscard]] std::string way_out() const override;

private:
    std::string directory_;
    std::string name_;
    std::vector<PackedEntry> entries_;
};

}  // namespace vmthaw
