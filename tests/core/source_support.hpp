#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "base/mapping.hpp"
#include "base/unique_fd.hpp"

namespace vmthaw::source_tests {

inline constexpr std::uint64_t kPage = 4096;

// The byte that a memory file of these tests has at a position: never 0, and different on neighbouring pages.
inline std::byte byte_at(std::uint64_t position) {
    const std::uint64_t mixed = (position / kPage * 0x9E3779B97F4A7C15U) >> 40U;
    return static_cast<std::byte>((mixed + position % 251) % 255 + 1);
}

inline std::vector<std::byte> bytes_at(std::uint64_t position, std::uint64_t size) {
    std::vector<std::byte> bytes(size);
    for (std::uint64_t i = 0; i < size; ++i) {
        bytes[i] = byte_at(position + i);
    }
    return bytes;
}

inline bool all_zero(std::span<const std::byte> bytes) {
    for (const std::byte byte : bytes) {
        if (byte != std::byte{0}) {
            return false;
        }
    }
    return true;
}

// A file under `directory` that is gone with this object. tmpfs is /dev/shm; the disk is where TMPDIR is, or /var/tmp.
class TemporaryFile {
public:
    explicit TemporaryFile(const std::string& directory = disk()) : path_(directory + "/vmthaw-test-XXXXXX") {
        fd_.reset(check_errno(::mkostemp(path_.data(), O_CLOEXEC), "mkostemp"));
    }
    TemporaryFile(const TemporaryFile&) = delete;
    TemporaryFile& operator=(const TemporaryFile&) = delete;
    TemporaryFile(TemporaryFile&&) = delete;
    TemporaryFile& operator=(TemporaryFile&&) = delete;
    ~TemporaryFile() { ::unlink(path_.c_str()); }

    [[nodiscard]] static std::string disk() {
        const char* chosen = std::getenv("TMPDIR");
        return chosen != nullptr && *chosen != '\0' ? chosen : "/var/tmp";
    }

    [[nodiscard]] const std::string& path() const { return path_; }
    [[nodiscard]] int fd() const { return fd_.get(); }

    // Writes the pattern over [position, position + size).
    void fill(std::uint64_t position, std::uint64_t size) const {
        const std::vector<std::byte> bytes = bytes_at(position, size);
        if (::pwrite(fd(), bytes.data(), size, static_cast<off_t>(position)) != static_cast<ssize_t>(size)) {
            throw SystemError(errno, "pwrite");
        }
    }
    void resize(std::uint64_t size) const { check_errno(::ftruncate(fd(), static_cast<off_t>(size)), "ftruncate"); }
    void punch(std::uint64_t position, std::uint64_t size) const {
        check_errno(::fallocate(fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(position),
                                static_cast<off_t>(size)),
                    "fallocate(PUNCH_HOLE)");
    }
    // Writes everything back and throws the clean pages out of the page cache.
    void evict() const {
        check_errno(::fsync(fd()), "fsync");
        check_returned(::posix_fadvise(fd(), 0, 0, POSIX_FADV_DONTNEED), "posix_fadvise(DONTNEED)");
    }
    // Reads [position, position + size) and holds it in the page cache: unmapped pages may be dropped at any time.
    [[nodiscard]] Mapping hold(std::uint64_t position, std::uint64_t size) const {
        Mapping held = Mapping::map(size, PROT_READ, MAP_SHARED | MAP_POPULATE, fd(), position, "mmap");
        check_errno(::mlock(held.data(), held.size()), "mlock");
        return held;
    }
    // Pages of [position, position + size) in the page cache, by this object's own look at it.
    [[nodiscard]] std::uint64_t resident_pages(std::uint64_t position, std::uint64_t size) const {
        void* address = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, fd(), static_cast<off_t>(position));
        if (address == MAP_FAILED) {
            throw SystemError(errno, "mmap");
        }
        std::vector<unsigned char> resident((size + kPage - 1) / kPage);
        const int result = ::mincore(address, size, resident.data());
        const int saved = errno;
        ::munmap(address, size);
        if (result != 0) {
            throw SystemError(saved, "mincore");
        }
        std::uint64_t pages = 0;
        for (const unsigned char page : resident) {
            pages += page & 1U;
        }
        return pages;
    }
    // That the kernel answers a read of the page at `position` that may not wait with EAGAIN.
    [[nodiscard]] bool refuses_to_wait(std::uint64_t position) const {
        // Or the kernel reads the next pages too, and they are not cold any more.
        static_cast<void>(::posix_fadvise(fd(), 0, 0, POSIX_FADV_RANDOM));
        std::vector<std::byte> page(kPage);
        const ::iovec vector{page.data(), page.size()};
        return ::preadv2(fd(), &vector, 1, static_cast<off_t>(position), RWF_NOWAIT) < 0 && errno == EAGAIN;
    }

private:
    std::string path_;
    UniqueFd fd_;
};

}  // namespace vmthaw::source_tests
