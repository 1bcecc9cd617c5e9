#include "source/frame_cache.hpp"

#include <cerrno>
#include <cstring>
#include <new>

#include "source/lz4_frame.hpp"
#include "source/zstd_frame.hpp"

namespace vmthaw {

// Written by the thread that loads it, read by the others once `is_done` (under the lock) says so.
struct FrameCache::Frame {
    std::size_t size = 0;
    std::unique_ptr<std::byte[]> bytes;  // NOLINT(modernize-avoid-c-arrays): not to be zeroed first, as a vector is
    ReadResult result;
    bool is_done = false;

    void load(const Job& job) noexcept;
};

void FrameCache::Frame::load(const Job& job) noexcept {
    bytes.reset(new (std::nothrow) std::byte[job.frame.size]);
    const std::unique_ptr<std::byte[]> compressed(  // NOLINT(modernize-avoid-c-arrays)
        new (std::nothrow) std::byte[job.frame.compressed_size]);
    if (!bytes || !compressed) {
        result = {.status = ReadStatus::io_error, .errno_value = ENOMEM};
        return;
    }
    const std::span<std::byte> from(compressed.get(), job.frame.compressed_size);
    result = job.source.read(job.frame.compressed_start, from);
    if (!result.ok()) {
        return;
    }
    const std::span<std::byte> to(bytes.get(), job.frame.size);
    const char* why = job.codec == FrameCodec::zstd ? zstd_decompress(from, to) : lz4_decompress(from, to);
    if (why != nullptr) {
        result = {.status = ReadStatus::io_error, .errno_value = EBADMSG};
    }
}

ReadResult FrameCache::read(const Job& job, std::uint64_t begin, std::span<std::byte> out) noexcept {
    try {
        const std::shared_ptr<Frame> frame = find_or_load(job);
        if (frame->result.ok()) {
            std::memcpy(out.data(), frame->bytes.get() + begin, out.size());
        }
        return frame->result;
    } catch (const std::bad_alloc&) {
        return {.status = ReadStatus::io_error, .errno_value = ENOMEM};
    }
}

std::shared_ptr<FrameCache::Frame> FrameCache::find_or_load(const Job& job) {
    std::unique_lock lock(mutex_);
    if (const auto found = entries_.find(job.key); found != entries_.end()) {
        std::shared_ptr<Frame> frame = found->second.frame;
        recent_.splice(recent_.begin(), recent_, found->second.place);
        loaded_.wait(lock, [&frame] { return frame->is_done; });
        return frame;
    }
    auto frame = std::make_shared<Frame>();
    frame->size = job.frame.size;
    make_room(frame->size);
    recent_.push_front(job.key);
    try {
        entries_.emplace(job.key, Entry{frame, recent_.begin()});
    } catch (...) {
        recent_.pop_front();
        throw;
    }
    held_bytes_ += frame->size;
    lock.unlock();
    frame->load(job);
    lock.lock();
    ++decompressed_frames_;
    frame->is_done = true;
    // What failed is tried again by whoever comes next; what is larger than the cache is not kept.
    if (!frame->result.ok() || held_bytes_ > limit_bytes_) {
        const auto own = entries_.find(job.key);
        recent_.erase(own->second.place);
        entries_.erase(own);
        held_bytes_ -= frame->size;
    }
    lock.unlock();
    loaded_.notify_all();
    return frame;
}

// Frames that are being loaded stay: others wait for them.
void FrameCache::make_room(std::size_t bytes) {
    for (auto oldest = recent_.end(); held_bytes_ + bytes > limit_bytes_ && oldest != recent_.begin();) {
        --oldest;
        const auto entry = entries_.find(*oldest);
        if (entry->second.frame->is_done) {
            held_bytes_ -= entry->second.frame->size;
            entries_.erase(entry);
            oldest = recent_.erase(oldest);
        }
    }
}

bool FrameCache::read_now(std::uint64_t key, std::uint64_t begin, std::span<std::byte> out) noexcept {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock()) {
        return false;
    }
    const auto found = entries_.find(key);
    if (found == entries_.end() || !found->second.frame->is_done) {
        return false;
    }
    recent_.splice(recent_.begin(), recent_, found->second.place);
    std::memcpy(out.data(), found->second.frame->bytes.get() + begin, out.size());
    return true;
}

std::size_t FrameCache::held_bytes() const noexcept {
    const std::lock_guard lock(mutex_);
    return held_bytes_;
}

std::uint64_t FrameCache::decompressed_frames() const noexcept {
    const std::lock_guard lock(mutex_);
    return decompressed_frames_;
}

}  // namespace vmthaw
