#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <shared_mutex>
#include <span>

#include "filesystem/file_system.hpp"
#include "filesystem/file_system_values.hpp"
#include "fuse/dax_target.hpp"

namespace vmthaw {

struct FuseDispatcherConfig {
    // What the client may cache unless the file system says otherwise, in ns.
    std::uint64_t entry_ttl_ns = 1'000'000'000;
    std::uint64_t attr_ttl_ns = 1'000'000'000;
    // The largest data of one WRITE, and of one READ's reply; a multiple of 4096, at most 1 MiB.
    std::uint32_t max_write_bytes = 1U << 20;
    std::uint32_t max_readahead_bytes = 1U << 20;
    std::uint16_t max_background = 64;
};

// Turns the bytes of one FUSE request into the bytes of its reply, whatever brings them (/dev/fuse, a virtqueue).
// Any number of threads at once; takes no GIL of itself. Owns neither bytes nor transport, shares the file system.
// The request is untrusted: what does not hold together is answered with an errno and reaches no file system.
class FuseDispatcher {
public:
    // Throws ArgumentError for a configuration out of bounds.
    explicit FuseDispatcher(std::shared_ptr<FileSystem> file_system, FuseDispatcherConfig config = {},
                            std::shared_ptr<DaxTarget> dax = nullptr);
    FuseDispatcher(const FuseDispatcher&) = delete;
    FuseDispatcher& operator=(const FuseDispatcher&) = delete;
    // As a DESTROY, if the client is still there.
    ~FuseDispatcher();

    // Bytes of the reply written to `reply`, its header included; 0: this request has none (forget, interrupt, or bytes
    // that are no request). With `file_bytes` a READ may leave only the header in `reply` (16 bytes, whose length
    // already counts the rest) and name the file's bytes there: the transport sends them behind it; where it cannot
    // send exactly so many, it asks again without. `reply` should have max_reply_bytes(); in less, an answer that does
    // not fit becomes an error.
    [[nodiscard]] std::size_t dispatch(std::span<const std::byte> request, std::span<std::byte> reply,
                                       FileBytes* file_bytes = nullptr) noexcept;

    // The client has gone without a DESTROY (unmounted by force, device reset): the same end. Another INIT may follow.
    void reset() noexcept;

    [[nodiscard]] bool initialized() const noexcept;
    // What the largest request and the largest reply take.
    [[nodiscard]] std::size_t max_request_bytes() const noexcept;
    [[nodiscard]] std::size_t max_reply_bytes() const noexcept;
    [[nodiscard]] const std::shared_ptr<FileSystem>& file_system() const noexcept { return file_system_; }

private:
    std::shared_ptr<FileSystem> file_system_;
    FuseDispatcherConfig config_;
    std::shared_ptr<DaxTarget> dax_;
};

}  // namespace vmthaw
