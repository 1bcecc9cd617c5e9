#pragma once

#include <pthread.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/mapping.hpp"
#include "fuse/fuse_device.hpp"
#include "fuse/fuse_dispatcher.hpp"
#include "fuse/splice_pipe.hpp"

namespace vmthaw {

struct FuseCounters {
    std::atomic<std::uint64_t> requests{0};
    std::atomic<std::uint64_t> replies{0};
    std::atomic<std::uint64_t> spliced{0};
    std::atomic<std::uint64_t> unwanted{0};  // replies that nobody waited for any more
    std::atomic<std::uint64_t> refused{0};   // replies that the kernel did not take
};

// One thread's half of a server: its own clone of the device, its buffers and the loop read, dispatch, write. bind()
// and then run() on that thread; end() on any, between bind() and the end of that thread.
class FuseReader {
public:
    enum class End : unsigned char { unmounted, told_to, error };

    // Throws SystemError (EMFILE, ENOMEM).
    FuseReader(const FuseDevice& device, FuseDispatcher& dispatcher, FuseCounters& counters, bool splices);

    void bind() noexcept { thread_ = ::pthread_self(); }
    // Until the file system is unmounted or end() is called. Throws StateError (ReadKick) before it begins.
    [[nodiscard]] End run();
    // Takes the device away from it. A request under way is finished, and its reply dropped.
    void end() noexcept;

private:
    [[nodiscard]] End loop() noexcept;
    void answer(std::span<const std::byte> request) noexcept;
    void count(int error, std::span<const std::byte> request, std::span<const std::byte> reply) noexcept;

    FuseDevice device_;
    FuseDispatcher& dispatcher_;
    FuseCounters& counters_;
    Mapping request_memory_;
    Mapping reply_memory_;
    std::span<std::byte> request_;
    std::span<std::byte> reply_;
    SplicePipe pipe_;
    pthread_t thread_{};
};

}  // namespace vmthaw
