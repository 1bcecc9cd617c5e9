#include "source/cached/chunk_cache.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/page.hpp"

namespace vmthaw {
namespace {

constexpr unsigned kPinBits = 24;
constexpr std::uint64_t kPinMask = (std::uint64_t{1} << kPinBits) - 1;
constexpr std::uint64_t kFewestSlots = 2;
constexpr std::uint64_t kMostSlots = std::uint64_t{1} << 20U;

constexpr std::uint64_t tag_of(std::uint64_t word) noexcept { return word >> kPinBits; }

}  // namespace

struct ChunkCache::Load {
    explicit Load(std::uint64_t number) noexcept : chunk(number) {}
    std::uint64_t chunk;
    std::uint64_t waiters = 0;
    bool done = false;
    ReadResult result;
    std::size_t slot = 0;
};

ChunkCache::ChunkCache(ChunkLoader& loader, std::uint64_t chunks, std::uint64_t largest_chunk_bytes,
                       std::uint64_t capacity_bytes)
    : loader_(loader),
      chunk_bytes_(round_up(std::max<std::uint64_t>(largest_chunk_bytes, 1), kPageBytes)),
      slots_(std::clamp(std::min(capacity_bytes / chunk_bytes_, chunks), kFewestSlots, kMostSlots)),
      bytes_(Mapping::anonymous(slots_.size() * chunk_bytes_)),
      places_(Mapping::anonymous(std::max<std::uint64_t>(chunks, 1) * sizeof(std::uint32_t))),
      sync_(std::make_unique<Sync>()) {
    free_.reserve(slots_.size());
    for (std::size_t slot = slots_.size(); slot > 0; --slot) {
        free_.push_back(slot - 1);
    }
}

ChunkCache::~ChunkCache() {
    if (fork_guard_.inherited()) {
        // Destroying a condition variable waits for its waiters, and those exist in the parent only.
        static_cast<void>(sync_.release());  // NOLINT(bugprone-unused-return-value): left to the parent
    }
}

std::span<std::byte> ChunkCache::room_of(std::size_t slot) const noexcept {
    return bytes_.bytes().subspan(slot * chunk_bytes_, chunk_bytes_);
}

std::atomic<std::uint32_t>& ChunkCache::place_of(std::uint64_t chunk) const noexcept {
    // JUSTIFICATION: the mapping is ours alone, zeroed and aligned; a lock-free atomic is its value (asserted).
    static_assert(std::atomic<std::uint32_t>::is_always_lock_free && sizeof(std::atomic<std::uint32_t>) == 4);
    return reinterpret_cast<std::atomic<std::uint32_t>*>(places_.data())[chunk];
}

std::optional<std::size_t> ChunkCache::pin(std::uint64_t chunk) noexcept {
    const std::uint32_t place = place_of(chunk).load(std::memory_order_acquire);
    if (place == 0) {
        return std::nullopt;
    }
    Slot& slot = slots_[place - 1];
    std::uint64_t word = slot.word.load(std::memory_order_acquire);
    while (tag_of(word) == chunk + 1) {
        if (slot.word.compare_exchange_weak(word, word + 1, std::memory_order_acq_rel, std::memory_order_acquire)) {
            if (!slot.used.load(std::memory_order_relaxed)) {
                slot.used.store(true, std::memory_order_relaxed);
            }
            return place - 1;
        }
    }
    return std::nullopt;
}

void ChunkCache::unpin(std::size_t slot) noexcept {
    // Both orders are the strongest: either the one who starves sees the pin gone, or we see that somebody starves.
    slots_[slot].word.fetch_sub(1, std::memory_order_seq_cst);
    if (starving_.load(std::memory_order_seq_cst) != 0) {
        const std::lock_guard lock(sync_->mutex);
        sync_->progress.notify_all();
    }
}

void ChunkCache::copy_and_unpin(std::size_t slot, std::uint64_t offset, std::span<std::byte> out) noexcept {
    if (!out.empty()) {
        std::memcpy(out.data(), room_of(slot).data() + offset, out.size());
    }
    unpin(slot);
}

bool ChunkCache::read_now(std::uint64_t chunk, std::uint64_t offset, std::span<std::byte> out) noexcept {
    if (closed_.load(std::memory_order_relaxed) || fork_guard_.inherited()) {
        return false;
    }
    const std::optional<std::size_t> slot = pin(chunk);
    if (!slot) {
        return false;
    }
    copy_and_unpin(*slot, offset, out);
    hits_.fetch_add(1, std::memory_order_relaxed);
    return true;
}

bool ChunkCache::holds(std::uint64_t chunk) const noexcept {
    return place_of(chunk).load(std::memory_order_relaxed) != 0;
}

ReadResult ChunkCache::read(std::uint64_t chunk, std::uint64_t offset, std::span<std::byte> out) noexcept {
    for (;;) {
        if (read_now(chunk, offset, out)) {
            return {};
        }
        if (fork_guard_.inherited()) {
            return {.status = ReadStatus::closed};
        }
        std::unique_lock lock(sync_->mutex);
        if (closed_.load(std::memory_order_relaxed)) {
            return {.status = ReadStatus::closed};
        }
        const auto running =
            std::find_if(loads_.begin(), loads_.end(), [chunk](const auto& load) { return load->chunk == chunk; });
        if (running != loads_.end()) {
            // Held here: whoever brings it forgets it while we wait.
            const std::shared_ptr<Load> load = *running;  // NOLINT(performance-unnecessary-copy-initialization)
            return join(*load, lock, offset, out);
        }
        if (holds(chunk)) {
            continue;  // its load ended between the look and the lock
        }
        std::shared_ptr<Load> load;
        try {
            load = std::make_shared<Load>(chunk);
            loads_.push_back(load);
        } catch (...) {
            return {.status = ReadStatus::io_error, .errno_value = ENOMEM};
        }
        return bring(load, lock, offset, out);
    }
}

ReadResult ChunkCache::join(Load& load, std::unique_lock<std::mutex>& lock, std::uint64_t offset,
                            std::span<std::byte> out) noexcept {
    ++stats_.joins;
    ++load.waiters;
    sync_->progress.wait(lock, [&] { return load.done || closed_.load(std::memory_order_relaxed); });
    if (!load.done) {
        --load.waiters;
        return {.status = ReadStatus::closed};
    }
    lock.unlock();
    if (load.result.ok()) {
        copy_and_unpin(load.slot, offset, out);  // the pin was taken in our name
    }
    return load.result;
}

ReadResult ChunkCache::bring(const std::shared_ptr<Load>& load, std::unique_lock<std::mutex>& lock,
                             std::uint64_t offset, std::span<std::byte> out) noexcept {
    const std::optional<std::size_t> slot = take_slot(lock);
    const std::size_t number = slot.value_or(0);
    if (slot) {
        lock.unlock();
        load->result = loader_.load(load->chunk, room_of(number));
        lock.lock();
        load->slot = number;
    } else {
        load->result = {.status = ReadStatus::closed};
    }
    std::erase(loads_, load);
    load->done = true;
    if (load->result.ok()) {
        ++stats_.loads;
        slots_[number].used.store(true, std::memory_order_relaxed);
        slots_[number].word.store(((load->chunk + 1) << kPinBits) | (load->waiters + 1), std::memory_order_release);
        place_of(load->chunk).store(static_cast<std::uint32_t>(number + 1), std::memory_order_release);
    } else {
        ++stats_.failures;
        if (slot) {
            free_.push_back(number);
        }
    }
    sync_->progress.notify_all();
    lock.unlock();
    if (load->result.ok()) {
        copy_and_unpin(number, offset, out);
    }
    return load->result;
}

// A slot that nobody uses, its chunk forgotten: the hand goes round and passes by once whatever was used since.
std::optional<std::size_t> ChunkCache::sweep() noexcept {
    if (!free_.empty()) {
        const std::size_t slot = free_.back();
        free_.pop_back();
        return slot;
    }
    for (std::size_t step = 0; step < 2 * slots_.size(); ++step) {
        const std::size_t number = hand_;
        hand_ = (hand_ + 1) % slots_.size();
        Slot& slot = slots_[number];
        std::uint64_t word = slot.word.load(std::memory_order_seq_cst);
        if (tag_of(word) == 0 || (word & kPinMask) != 0 || slot.used.exchange(false, std::memory_order_relaxed)) {
            continue;
        }
        if (slot.word.compare_exchange_strong(word, 0, std::memory_order_seq_cst)) {
            place_of(tag_of(word) - 1).store(0, std::memory_order_release);
            ++stats_.evictions;
            return number;
        }
    }
    return std::nullopt;
}

std::optional<std::size_t> ChunkCache::take_slot(std::unique_lock<std::mutex>& lock) noexcept {
    if (const auto slot = sweep()) {
        return slot;
    }
    starving_.fetch_add(1, std::memory_order_seq_cst);
    std::optional<std::size_t> slot;
    while (!(slot = sweep()) && !closed_.load(std::memory_order_relaxed)) {
        sync_->progress.wait(lock);
    }
    starving_.fetch_sub(1, std::memory_order_seq_cst);
    return slot;
}

void ChunkCache::close() noexcept {
    if (fork_guard_.inherited()) {
        return;
    }
    const std::lock_guard lock(sync_->mutex);
    closed_.store(true, std::memory_order_relaxed);
    sync_->progress.notify_all();
}

ChunkCacheStats ChunkCache::stats() const noexcept {
    if (fork_guard_.inherited()) {
        return {};
    }
    const std::lock_guard lock(sync_->mutex);
    ChunkCacheStats result = stats_;
    result.hits = hits_.load(std::memory_order_relaxed);
    return result;
}

std::uint64_t ChunkCache::held_bytes() const noexcept {
    const ChunkCacheStats now = stats();
    return (now.loads - now.evictions) * chunk_bytes_;
}

}  // namespace vmthaw
