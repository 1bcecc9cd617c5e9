#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>

#include "base/fork_guard.hpp"

namespace vmthaw {

struct DiskChunksConfig {
    std::string directory;  // made when it is not there; may be shared by any number of sources and processes
    std::string identity;   // of the bytes: another version of an object must have another
    std::uint64_t capacity_bytes = 0;
};

struct DiskChunksStats {
    std::uint64_t hits = 0;
    std::uint64_t misses = 0;
    std::uint64_t damaged = 0;    // found, not believed and removed
    std::uint64_t failures = 0;   // that could not be written
    std::uint64_t evictions = 0;  // by this object
};

// Chunks of far sources in files of a directory: DIRECTORY/<hash of the identity>/<chunk>, the bytes and a checksum
// over them and their place. Written beside and renamed, so a reader never sees half of one, whoever was killed when.
// When the directory holds more than its capacity, the files used longest ago go first. A cache may fail: nothing but
// the constructor throws, and what cannot be kept is fetched again. Thread-safe; blocks on the disk.
class DiskChunks {
public:
    // Throws SystemError when the directory cannot be made or written.
    explicit DiskChunks(DiskChunksConfig config);
    DiskChunks(const DiskChunks&) = delete;
    DiskChunks& operator=(const DiskChunks&) = delete;
    DiskChunks(DiskChunks&&) = delete;
    DiskChunks& operator=(DiskChunks&&) = delete;
    ~DiskChunks() = default;

    // Fills `out` with the whole chunk; false when it is not there, or not as it was written.
    [[nodiscard]] bool load(std::uint64_t chunk, std::span<std::byte> out) noexcept;
    void store(std::uint64_t chunk, std::span<const std::byte> bytes) noexcept;
    [[nodiscard]] DiskChunksStats stats() const noexcept;

private:
    [[nodiscard]] std::string path_of(std::uint64_t chunk) const;
    [[nodiscard]] std::uint64_t checksum_of(std::uint64_t chunk, std::span<const std::byte> bytes) const noexcept;
    [[nodiscard]] bool try_load(std::uint64_t chunk, std::span<std::byte> out);
    void try_store(std::uint64_t chunk, std::span<const std::byte> bytes);
    void make_room();

    DiskChunksConfig config_;
    std::uint64_t identity_hash_;
    std::string place_;
    ForkGuard fork_guard_;
    std::atomic<std::uint64_t> bytes_{0};  // in the directory, as far as this object knows
    std::atomic<std::uint64_t> hits_{0};
    std::atomic<std::uint64_t> misses_{0};
    std::atomic<std::uint64_t> damaged_{0};
    std::atomic<std::uint64_t> failures_{0};
    std::atomic<std::uint64_t> evictions_{0};
    std::unique_ptr<std::mutex> eviction_;  // one thread looks at the directory
};

}  // namespace vmthaw
