#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>

#include "source/layered_header.hpp"
#include "source/page_source.hpp"

namespace vmthaw {

// Decompressed frames of compressed builds, the ones used last, up to a number of bytes. A frame is decompressed once
// for however many threads wait for it; a failure is that of all who waited and is not kept. Thread-safe; only the
// constructor throws. A source that waits for itself through it is a deadlock.
class FrameCache {
public:
    struct Job {
        std::uint64_t key;  // names the frame among all of the cache
        PageSource& source;
        FrameCodec codec;
        LayeredFrame frame;
    };

    explicit FrameCache(std::size_t limit_bytes) : limit_bytes_(limit_bytes) {}

    // The bytes from `begin` of the decompressed frame on, which must have so many. Blocks while it is decompressed.
    // io_error(EBADMSG) for a frame that is damaged, ENOMEM, or what reading its source answered.
    [[nodiscard]] ReadResult read(const Job& job, std::uint64_t begin, std::span<std::byte> out) noexcept;
    // The same for a small range of a frame that is at hand; false when it is not, or another thread is busy here.
    [[nodiscard]] bool read_now(std::uint64_t key, std::uint64_t begin, std::span<std::byte> out) noexcept;

    [[nodiscard]] std::size_t held_bytes() const noexcept;
    [[nodiscard]] std::uint64_t decompressed_frames() const noexcept;

private:
    struct Frame;
    using Recent = std::list<std::uint64_t>;
    struct Entry {
        std::shared_ptr<Frame> frame;
        Recent::iterator place;
    };

    [[nodiscard]] std::shared_ptr<Frame> find_or_load(const Job& job);
    void make_room(std::size_t bytes);

    mutable std::mutex mutex_;
    std::condition_variable loaded_;
    std::unordered_map<std::uint64_t, Entry> entries_;
    Recent recent_;  // the one used last comes first
    std::size_t limit_bytes_;
    std::size_t held_bytes_ = 0;
    std::uint64_t decompressed_frames_ = 0;
};

}  // namespace vmthaw
