#include "source/read_whole.hpp"

#include <unistd.h>

#include <cerrno>

namespace vmthaw {

ReadResult read_whole(int fd, std::uint64_t position, std::span<std::byte> out) noexcept {
    std::size_t done = 0;
    while (done < out.size()) {
        const ssize_t got = ::pread(fd, out.data() + done, out.size() - done, static_cast<off_t>(position + done));
        if (got > 0) {
            done += static_cast<std::size_t>(got);
        } else if (got == 0) {
            return {.status = ReadStatus::short_read, .got_bytes = done};
        } else if (errno != EINTR) {
            return {.status = ReadStatus::io_error, .errno_value = errno, .got_bytes = done};
        }
    }
    return {};
}

}  // namespace vmthaw
