#pragma once

#include <cstddef>
#include <span>

#include "base/unique_fd.hpp"
#include "filesystem/file_system_values.hpp"

namespace vmthaw {

// Sends a reply's header and, behind it, bytes of a file to /dev/fuse without a copy through this process. One thread.
class SplicePipe {
public:
    enum class Outcome : unsigned char { sent, not_sent, failed };

    // Room for the largest reply where the system allows such a pipe; 0 bytes: no pipe at all.
    explicit SplicePipe(std::size_t reply_bytes) noexcept;

    [[nodiscard]] explicit operator bool() const noexcept { return room_bytes_ > 0; }
    // not_sent: the file has fewer bytes (or cannot be spliced, or they are too many); send the reply another way.
    // failed: `error` says why.
    [[nodiscard]] Outcome send(int device, std::span<const std::byte> header, const FileBytes& bytes,
                               int& error) noexcept;

private:
    void reopen() noexcept;

    std::size_t wanted_bytes_;
    std::size_t room_bytes_ = 0;  // for a file's bytes, beside the header and a page begun
    UniqueFd read_end_;
    UniqueFd write_end_;
};

}  // namespace vmthaw
