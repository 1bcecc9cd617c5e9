#include "source/compressed/packed_source.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <tuple>
#include <utility>

#include "base/unique_fd.hpp"
#include "source/read_whole.hpp"

namespace vmthaw {
namespace {

// Equal chunks are one file. The size is asked as well: a manifest that lies about one chunk fails for that alone.
void equate_chunks(ChunkIndex& index, const std::vector<PackedEntry>& entries) {
    std::vector<std::uint32_t> order;
    for (std::uint32_t i = 0; i < entries.size(); ++i) {
        if (!entries[i].zero) {
            order.push_back(i);
        }
    }
    const auto content = [&](std::uint32_t i) {
        return std::tie(entries[i].hash, entries[i].checksum, index[i].bytes);
    };
    std::sort(order.begin(), order.end(), [&](std::uint32_t one, std::uint32_t other) {
        return std::tuple(content(one), one) < std::tuple(content(other), other);
    });
    for (std::size_t i = 1; i < order.size(); ++i) {
        if (content(order[i - 1]) == content(order[i])) {
            index.equate(order[i], order[i - 1]);
        }
    }
}

ChunkIndex index_of_entries(const std::string& path, ChunkCodec codec, std::uint64_t size, std::uint64_t chunk_bytes,
                            const std::vector<PackedEntry>& entries) {
    if (chunk_bytes == 0 || size == 0 || (size - 1) / chunk_bytes + 1 != entries.size()) {
        refuse_index(path, "chunks",
                     std::to_string(entries.size()) + " chunks of " + std::to_string(chunk_bytes) +
                         " bytes are not a memory of " + std::to_string(size));
    }
    ChunkIndex index(codec, true);
    for (const PackedEntry& entry : entries) {
        const std::uint64_t bytes = std::min(chunk_bytes, size - index.size());
        if (entry.zero) {
            index.add_zeros(path, bytes);
        } else {
            index.add(path, 0, bytes, entry.packed_bytes, entry.checksum);
        }
    }
    index.finish(path);
    equate_chunks(index, entries);
    return index;
}

}  // namespace

std::string chunk_path(std::span<const std::byte, 32> hash, ChunkCodec codec) {
    constexpr std::string_view kDigits = "0123456789abcdef";
    std::string path = "chunks/";
    for (std::size_t i = 0; i < hash.size(); ++i) {
        path += i == 1 ? "/" : "";
        path += kDigits[std::to_integer<unsigned>(hash[i]) >> 4U];
        path += kDigits[std::to_integer<unsigned>(hash[i]) & 15U];
    }
    return path + (codec == ChunkCodec::zstd ? ".zst" : ".lz4");
}

PackedSource::PackedSource(std::string directory, std::string name, ChunkCodec codec, std::uint64_t size,
                           std::uint64_t chunk_bytes, std::vector<PackedEntry> entries, std::uint64_t cache_bytes)
    : ChunkedSource(index_of_entries(directory + "/" + name, codec, size, chunk_bytes, entries), cache_bytes),
      directory_(std::move(directory)),
      name_(std::move(name)),
      entries_(std::move(entries)) {}

// The file's size is asked of the file: whoever packed the chunk anew may have compressed it otherwise.
ReadResult PackedSource::fetch(std::size_t chunk, std::vector<std::byte>& packed) {
    constexpr std::uint64_t kMostBytes = 2 * kLargestChunk;
    const std::string path = place_of(chunk);
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
    struct stat status{};
    if (!fd || ::fstat(fd.get(), &status) != 0) {
        return {.status = ReadStatus::io_error, .errno_value = errno};
    }
    if (!S_ISREG(status.st_mode) || static_cast<std::uint64_t>(status.st_size) > kMostBytes) {
        return {.status = ReadStatus::io_error, .errno_value = EBADMSG};
    }
    packed.resize(static_cast<std::size_t>(status.st_size));
    return read_whole(fd.get(), 0, packed);
}

std::string PackedSource::place_of(std::size_t chunk) const {
    return directory_ + "/" + chunk_path(entries_[chunk].hash, index().codec());
}

std::string PackedSource::way_out() const {
    return "remove the files and pack the memory again, which writes only what is missing (vmthaw snapshot verify "
           "names "
           "all that are damaged)";
}

}  // namespace vmthaw
