#pragma once

#include <cstdint>
#include <span>

#include "base/unique_fd.hpp"
#include "kernel/userfaultfd.hpp"
#include "userfaultfd/features.hpp"
#include "userfaultfd/fill_outcome.hpp"

namespace vmthaw {

struct ReadOutcome {
    std::size_t count = 0;  // messages read
    int errno_value = 0;    // 0, EAGAIN (nothing there), EINTR, or what read(2) said
};

// One userfaultfd descriptor, new (UserfaultfdFactory) or received from another process (adopt). Move-only.
// All range calls resume partial progress themselves and return an outcome; none throws, logs or allocates.
// Safe from several threads; who reads messages while who fills is the caller's protocol (pager/).
// Sources: linux/userfaultfd.h, ioctl_userfaultfd(2).
class Userfaultfd {
public:
    // Takes over a received descriptor. Throws SystemError when it is no userfaultfd. The features that its owner
    // negotiated are read from fdinfo (empty when the kernel does not show them).
    [[nodiscard]] static Userfaultfd adopt(UniqueFd fd);
    Userfaultfd(UniqueFd fd, Features features) noexcept : fd_(std::move(fd)), features_(features) {}

    [[nodiscard]] int fd() const noexcept { return fd_.get(); }
    [[nodiscard]] Features features() const noexcept { return features_; }
    [[nodiscard]] UniqueFd release() noexcept { return std::move(fd_); }
    // A duplicate of the same userfaultfd context. Throws SystemError.
    [[nodiscard]] Userfaultfd try_clone() const;
    // The flag is shared with every duplicate, the VMM's own included. Throws SystemError.
    void set_nonblocking(bool nonblocking) const;

    // Registers [address, address + size) with `modes` (kRegisterMissing | kRegisterWriteProtect | kRegisterMinor) and
    // gives back the bit mask of range ioctls that came back. Throws SystemError.
    std::uint64_t register_range(std::uint64_t address, std::uint64_t size, std::uint64_t modes) const;
    void unregister_range(std::uint64_t address, std::uint64_t size) const;

    [[nodiscard]] FillOutcome copy(std::uint64_t address, const void* source, std::uint64_t size,
                                   std::uint64_t mode = 0) const noexcept;
    [[nodiscard]] FillOutcome zero(std::uint64_t address, std::uint64_t size, std::uint64_t mode = 0) const noexcept;
    [[nodiscard]] FillOutcome continue_range(std::uint64_t address, std::uint64_t size,
                                             std::uint64_t mode = 0) const noexcept;
    [[nodiscard]] FillOutcome poison(std::uint64_t address, std::uint64_t size, std::uint64_t mode = 0) const noexcept;
    [[nodiscard]] FillOutcome move(std::uint64_t address, std::uint64_t source_address, std::uint64_t size,
                                   std::uint64_t mode = 0) const noexcept;
    [[nodiscard]] FillOutcome write_protect(std::uint64_t address, std::uint64_t size,
                                            std::uint64_t mode) const noexcept;
    // 0 or errno.
    int wake(std::uint64_t address, std::uint64_t size) const noexcept;

    // A batch of messages in one read(2).
    [[nodiscard]] ReadOutcome read(std::span<UffdMessage> messages) const noexcept;

private:
    UniqueFd fd_;
    Features features_;
};

}  // namespace vmthaw
