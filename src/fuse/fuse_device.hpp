#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/fork_guard.hpp"
#include "base/unique_fd.hpp"

namespace vmthaw {

// An open /dev/fuse; one per thread after clone(). A forked child closes its copy at once: one that it kept would let
// requests to a dead server wait for ever instead of failing with ENOTCONN.
class FuseDevice {
public:
    // Throws SystemError (ENOENT: no FUSE here).
    [[nodiscard]] static FuseDevice open();
    [[nodiscard]] static FuseDevice adopt(UniqueFd fd) noexcept { return FuseDevice(std::move(fd)); }
    FuseDevice(FuseDevice&& other) noexcept;
    FuseDevice& operator=(FuseDevice&& other) noexcept;
    FuseDevice(const FuseDevice&) = delete;
    FuseDevice& operator=(const FuseDevice&) = delete;
    ~FuseDevice();

    // Another descriptor of the same connection, with a queue of its own for what it has read. Throws SystemError.
    [[nodiscard]] FuseDevice clone() const;
    [[nodiscard]] int fd() const noexcept { return fd_.get(); }
    // The connection ends when the last descriptor of it is closed.
    void close() noexcept;
    // The same while another thread uses it: the number becomes one of /dev/null, of which a read is at its end. Only a
    // read that is already waiting has to be kicked (ReadKick). Any thread. 0 or an errno.
    [[nodiscard]] int cut() const noexcept;

    // One request, or a negative errno: ENODEV (unmounted), EINTR, ENOENT (taken back before it was read), EAGAIN.
    [[nodiscard]] std::int64_t read(std::span<std::byte> buffer) const noexcept;
    // 0 or an errno: ENOENT (nobody waits for it any more), EINVAL (the kernel does not take this reply), ENODEV.
    [[nodiscard]] int write(std::span<const std::byte> reply) const noexcept;

private:
    explicit FuseDevice(UniqueFd fd) noexcept;

    UniqueFd fd_;
    ForkGuard guard_;
};

}  // namespace vmthaw
