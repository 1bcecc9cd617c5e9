#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "filesystem/file_system.hpp"
#include "filesystem/file_system_values.hpp"
#include "fuse/dax_target.hpp"
#include "fuse/fuse_gate.hpp"
#include "fuse/fuse_session.hpp"
#include "fuse_protocol/reply_writer.hpp"
#include "fuse_protocol/request_reader.hpp"

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

    // A reply that nobody took (its request had been given up meanwhile): gives back the look-ups and handles in it.
    void undelivered(std::span<const std::byte> request, std::span<const std::byte> reply) noexcept;

    // The client has gone without a DESTROY (unmounted by force, device reset): the same end. Another INIT may follow.
    // Waits for the requests that are being served; so not from inside of one.
    void reset() noexcept;

    [[nodiscard]] bool initialized() const noexcept { return gate_.open(); }
    // What the largest request and the largest reply take.
    [[nodiscard]] std::size_t max_request_bytes() const noexcept;
    [[nodiscard]] std::size_t max_reply_bytes() const noexcept;
    [[nodiscard]] const std::shared_ptr<FileSystem>& file_system() const noexcept { return file_system_; }
    // Since the dispatcher was made: requests that came, and those of them that did not hold together.
    [[nodiscard]] std::uint64_t requests() const noexcept { return requests_.load(std::memory_order_relaxed); }
    [[nodiscard]] std::uint64_t malformed() const noexcept { return malformed_.load(std::memory_order_relaxed); }

private:
    [[nodiscard]] int serve(RequestReader& in, ReplyWriter& out, FileBytes* file_bytes, std::size_t& elsewhere_bytes,
                            bool& silent) noexcept;
    [[nodiscard]] int init(RequestReader& in, ReplyWriter& out) noexcept;
    [[nodiscard]] int settle(const FuseInitIn& offer, FuseInitOut& answer) noexcept;
    void end_session() noexcept;

    std::shared_ptr<FileSystem> file_system_;
    FuseDispatcherConfig config_;
    std::shared_ptr<DaxTarget> dax_;
    FuseGate gate_;
    FuseSession session_;      // changed while the gate is closed and nobody inside
    bool has_client_ = false;  // likewise: the file system was told of one
    std::atomic<std::uint64_t> requests_{0};
    std::atomic<std::uint64_t> malformed_{0};
};

}  // namespace vmthaw
