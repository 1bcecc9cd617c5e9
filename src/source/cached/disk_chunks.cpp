#include "source/cached/disk_chunks.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "base/error.hpp"
#include "base/unique_fd.hpp"
#include "source/compressed/partial_file.hpp"
#include "source/read_whole.hpp"
#include "source/xxh64.hpp"

namespace vmthaw {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kTrailerBytes = sizeof(std::uint64_t);
constexpr std::uint64_t kMixer = 0x9E37'79B9'7F4A'7C15;  // 2^64 over the golden ratio: neighbours fall far apart

struct KeptChunk {
    fs::path path;
    std::uint64_t bytes;
    fs::file_time_type used;
};

std::string sixteen_digits(std::uint64_t value) {
    const std::string digits = hex(value).substr(2);
    return std::string(2 * sizeof(value) - digits.size(), '0') + digits;
}

// Everything in the directory and one below, half-written files of the killed included.
std::vector<KeptChunk> chunks_in(const std::string& directory) {
    std::vector<KeptChunk> found;
    std::error_code ignored;
    for (auto entry = fs::recursive_directory_iterator(directory, ignored); entry != fs::end(entry);
         entry.increment(ignored)) {
        std::error_code gone;  // another process may remove what we look at
        if (entry->is_regular_file(gone) && !gone) {
            const auto bytes = entry->file_size(gone);
            const auto used = gone ? fs::file_time_type{} : entry->last_write_time(gone);
            if (!gone) {
                found.push_back({entry->path(), bytes, used});
            }
        }
    }
    return found;
}

std::uint64_t bytes_of(const std::vector<KeptChunk>& chunks) {
    std::uint64_t sum = 0;
    for (const KeptChunk& chunk : chunks) {
        sum += chunk.bytes;
    }
    return sum;
}

}  // namespace

DiskChunks::DiskChunks(DiskChunksConfig config)
    : config_(std::move(config)),
      identity_hash_(xxh64(std::as_bytes(std::span(config_.identity)))),
      place_(config_.directory + "/" + sixteen_digits(identity_hash_)),
      eviction_(std::make_unique<std::mutex>()) {
    std::error_code error;
    fs::create_directories(place_, error);
    if (error || ::access(place_.c_str(), W_OK | X_OK) != 0) {
        const int number = error ? error.value() : errno;
        throw SystemError(number, "the disk cache " + place_, "give a directory that may be written");
    }
    bytes_ = bytes_of(chunks_in(config_.directory));
}

std::string DiskChunks::path_of(std::uint64_t chunk) const { return place_ + "/" + sixteen_digits(chunk); }

// Of the place, too: a file that was renamed, or is of another identity with the same hash, is not believed.
std::uint64_t DiskChunks::checksum_of(std::uint64_t chunk, std::span<const std::byte> bytes) const noexcept {
    std::uint64_t place = chunk * kMixer;
    for (const char letter : config_.identity) {
        place = (place ^ static_cast<unsigned char>(letter)) * kMixer;
    }
    return xxh64(bytes) ^ place ^ bytes.size();
}

bool DiskChunks::load(std::uint64_t chunk, std::span<std::byte> out) noexcept {
    try {
        if (!fork_guard_.inherited() && try_load(chunk, out)) {
            hits_.fetch_add(1, std::memory_order_relaxed);
            return true;
        }
    } catch (...) {
        failures_.fetch_add(1, std::memory_order_relaxed);
    }
    misses_.fetch_add(1, std::memory_order_relaxed);
    return false;
}

bool DiskChunks::try_load(std::uint64_t chunk, std::span<std::byte> out) {
    const std::string path = path_of(chunk);
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    if (!fd) {
        return false;
    }
    std::array<std::byte, kTrailerBytes + 1> trailer{};  // one more: a longer file is not ours either
    std::uint64_t checksum = 0;
    const bool whole =
        read_whole(fd.get(), 0, out).ok() && read_whole(fd.get(), out.size(), trailer).got_bytes == kTrailerBytes;
    std::memcpy(&checksum, trailer.data(), kTrailerBytes);
    if (!whole || checksum != checksum_of(chunk, out)) {
        damaged_.fetch_add(1, std::memory_order_relaxed);
        std::error_code ignored;
        fs::remove(path, ignored);
        return false;
    }
    static_cast<void>(::futimens(fd.get(), nullptr));  // used now; a read-only file system forgets it
    return true;
}

void DiskChunks::store(std::uint64_t chunk, std::span<const std::byte> bytes) noexcept {
    try {
        if (!fork_guard_.inherited()) {
            try_store(chunk, bytes);
        }
    } catch (...) {
        failures_.fetch_add(1, std::memory_order_relaxed);
    }
}

void DiskChunks::try_store(std::uint64_t chunk, std::span<const std::byte> bytes) {
    const std::uint64_t needed = bytes.size() + kTrailerBytes;
    if (needed > config_.capacity_bytes) {
        return;
    }
    if (bytes_.load(std::memory_order_relaxed) + needed > config_.capacity_bytes) {
        make_room();
    }
    const std::uint64_t checksum = checksum_of(chunk, bytes);
    PartialFile file(path_of(chunk));
    file.append(bytes);
    file.append(std::as_bytes(std::span(&checksum, 1)));
    file.finish(PartialFile::Flush::never);  // what a crash leaves is read again, and its checksum does not hold
    bytes_.fetch_add(needed, std::memory_order_relaxed);
}

// To nine tenths, so that not every chunk looks at the whole directory. Counts anew: others write there, too.
void DiskChunks::make_room() {
    const std::unique_lock lock(*eviction_, std::try_to_lock);
    if (!lock.owns_lock()) {
        return;
    }
    std::vector<KeptChunk> found = chunks_in(config_.directory);
    std::uint64_t total = bytes_of(found);
    std::ranges::sort(found, {}, &KeptChunk::used);
    const std::uint64_t wanted = config_.capacity_bytes / 10 * 9;
    for (const KeptChunk& oldest : found) {
        if (total <= wanted) {
            break;
        }
        std::error_code gone;
        if (fs::remove(oldest.path, gone)) {
            evictions_.fetch_add(1, std::memory_order_relaxed);
        }
        total -= oldest.bytes;
    }
    bytes_.store(total, std::memory_order_relaxed);
}

DiskChunksStats DiskChunks::stats() const noexcept {
    return {.hits = hits_.load(std::memory_order_relaxed),
            .misses = misses_.load(std::memory_order_relaxed),
            .damaged = damaged_.load(std::memory_order_relaxed),
            .failures = failures_.load(std::memory_order_relaxed),
            .evictions = evictions_.load(std::memory_order_relaxed)};
}

}  // namespace vmthaw
