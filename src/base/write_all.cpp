#include "base/write_all.hpp"

#include <unistd.h>

#include <cerrno>

#include "base/error.hpp"

namespace vmthaw {

void write_all(int fd, const std::byte* data, std::uint64_t size, std::uint64_t offset, const std::string& path) {
    while (size > 0) {
        const ssize_t written = ::pwrite(fd, data, size, static_cast<off_t>(offset));
        if (written < 0) {
            const int saved = errno;
            if (saved == EINTR) {
                continue;
            }
            throw SystemError(saved, "writing " + path);
        }
        data += written;
        size -= static_cast<std::uint64_t>(written);
        offset += static_cast<std::uint64_t>(written);
    }
}

}  // namespace vmthaw
