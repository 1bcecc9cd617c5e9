#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "base/fork_guard.hpp"
#include "base/mapping.hpp"
#include "source/page_source.hpp"

namespace vmthaw {

// Who brings chunks: reads and decompresses one. Called on source threads, several at once.
class ChunkLoader {
public:
    ChunkLoader() = default;
    ChunkLoader(const ChunkLoader&) = delete;
    ChunkLoader& operator=(const ChunkLoader&) = delete;
    ChunkLoader(ChunkLoader&&) = delete;
    ChunkLoader& operator=(ChunkLoader&&) = delete;
    virtual ~ChunkLoader() = default;
    // Fills the beginning of `room`, which is as large as the largest chunk.
    [[nodiscard]] virtual ReadResult load(std::uint64_t chunk, std::span<std::byte> room) noexcept = 0;
};

struct ChunkCacheStats {
    std::uint64_t loads = 0;     // chunks brought, each once however many waited
    std::uint64_t failures = 0;  // loads that failed
    std::uint64_t hits = 0;      // reads that found their chunk
    std::uint64_t joins = 0;     // reads that waited for a load of somebody else's
    std::uint64_t evictions = 0;
};

// Decompressed chunks, as many as fit into a number of bytes. A reader pins its chunk while it copies, so no address
// leaves this object and eviction never pulls bytes from under anybody. Thread-safe; only the constructor throws.
class ChunkCache {
public:
    // `loader` must outlive this. Never fewer than two chunks are held, whatever `capacity_bytes` says.
    ChunkCache(ChunkLoader& loader, std::uint64_t chunks, std::uint64_t largest_chunk_bytes,
               std::uint64_t capacity_bytes);
    ChunkCache(const ChunkCache&) = delete;
    ChunkCache& operator=(const ChunkCache&) = delete;
    ChunkCache(ChunkCache&&) = delete;
    ChunkCache& operator=(ChunkCache&&) = delete;
    ~ChunkCache();

    // Copies out of a chunk that is held; false when it is not. Waits for nothing and allocates nothing: for the fault
    // path.
    [[nodiscard]] bool read_now(std::uint64_t chunk, std::uint64_t offset, std::span<std::byte> out) noexcept;
    // Brings the chunk, or waits for whoever is bringing it, and copies. What failed for one failed for all who waited
    // for it, and is tried anew by the next. `closed` after close().
    [[nodiscard]] ReadResult read(std::uint64_t chunk, std::uint64_t offset, std::span<std::byte> out) noexcept;
    [[nodiscard]] bool holds(std::uint64_t chunk) const noexcept;
    // Ends the waits; loads that run come to their end.
    void close() noexcept;

    [[nodiscard]] ChunkCacheStats stats() const noexcept;
    [[nodiscard]] std::uint64_t capacity_chunks() const noexcept { return slots_.size(); }
    // Of the chunks that are held, each as much as the largest takes.
    [[nodiscard]] std::uint64_t held_bytes() const noexcept;

private:
    // `word` is the chunk plus one in its upper 40 bits (0: nothing to be had) and the number of pins below.
    struct Slot {
        std::atomic<std::uint64_t> word{0};
        std::atomic<bool> used{false};
    };
    struct Load;
    struct Sync {
        std::mutex mutex;
        std::condition_variable progress;
    };

    [[nodiscard]] std::span<std::byte> room_of(std::size_t slot) const noexcept;
    [[nodiscard]] std::atomic<std::uint32_t>& place_of(std::uint64_t chunk) const noexcept;
    [[nodiscard]] std::optional<std::size_t> pin(std::uint64_t chunk) noexcept;
    void unpin(std::size_t slot) noexcept;
    void copy_and_unpin(std::size_t slot, std::uint64_t offset, std::span<std::byte> out) noexcept;
    [[nodiscard]] std::optional<std::size_t> sweep() noexcept;
    [[nodiscard]] std::optional<std::size_t> take_slot(std::unique_lock<std::mutex>& lock) noexcept;
    [[nodiscard]] ReadResult join(Load& load, std::unique_lock<std::mutex>& lock, std::uint64_t offset,
                                  std::span<std::byte> out) noexcept;
    [[nodiscard]] ReadResult bring(const std::shared_ptr<Load>& load, std::unique_lock<std::mutex>& lock,
                                   std::uint64_t offset, std::span<std::byte> out) noexcept;

    ChunkLoader& loader_;
    std::uint64_t chunk_bytes_;
    std::vector<Slot> slots_;
    Mapping bytes_;   // a room for each slot
    Mapping places_;  // for each chunk its slot plus one, or 0
    ForkGuard fork_guard_;
    std::atomic<bool> closed_{false};
    std::atomic<std::uint64_t> starving_{0};  // those who wait for a slot
    std::atomic<std::uint64_t> hits_{0};

    std::unique_ptr<Sync> sync_;  // its mutex guards what follows
    std::vector<std::shared_ptr<Load>> loads_;
    std::vector<std::size_t> free_;
    std::size_t hand_ = 0;
    ChunkCacheStats stats_;
};

}  // namespace vmthaw
