#include "machine/snapshot/memory_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "base/error.hpp"
#include "base/page.hpp"
#include "base/unique_fd.hpp"
#include "base/write_all.hpp"
#include "machine/payload/pattern.hpp"

namespace vmthaw {
namespace {

using payload::mix;
constexpr std::uint64_t kLargestWrite = std::uint64_t{8} << 20U;

[[noreturn]] void fail(int errno_value, const std::string& operation) { throw SystemError(errno_value, operation); }

void stop_if(const std::atomic<bool>& cancelled) {
    if (cancelled.load(std::memory_order_relaxed)) {
        throw SystemError(ECANCELED, "copying guest memory");
    }
}

// The page's fingerprint, or nothing for a page of zeros. Each step is a bijection of the lane, so no single changed
// word can go unseen.
std::optional<std::uint64_t> fingerprint_of(const std::byte* page, std::uint64_t file_page) {
    std::uint64_t lanes[4] = {1, 2, 3, 4};
    std::uint64_t any = 0;
    for (std::uint64_t at = 0; at < kPageBytes; at += sizeof lanes) {
        std::uint64_t words[4];
        std::memcpy(words, page + at, sizeof words);
        for (int lane = 0; lane < 4; ++lane) {
            any |= words[lane];
            lanes[lane] = (lanes[lane] ^ words[lane]) * payload::kWordStep;
            lanes[lane] ^= lanes[lane] >> 29U;
        }
    }
    if (any == 0) {
        return std::nullopt;
    }
    std::uint64_t sum = mix(file_page);
    for (const std::uint64_t lane : lanes) {
        sum = mix(sum ^ lane);
    }
    return sum;
}

MemoryContent write_region(const GuestRegion& region, int fd, std::uint64_t start, const std::string& path,
                           const std::atomic<bool>& cancelled) {
    MemoryContent content;
    std::uint64_t run_start = 0;  // of data that is not written yet
    for (std::uint64_t at = 0; at < region.size_bytes; at += kPageBytes) {
        stop_if(cancelled);
        const std::uint64_t offset = region.file_offset + at;
        const auto fingerprint = fingerprint_of(region.host + at, offset / kPageBytes);
        if (fingerprint) {
            ++content.data_pages;
            content.fingerprint += *fingerprint;
        }
        const std::uint64_t run_end = fingerprint ? at + kPageBytes : at;
        if (!fingerprint || run_end - run_start >= kLargestWrite || run_end == region.size_bytes) {
            write_all(fd, region.host + run_start, run_end - run_start, start + region.file_offset + run_start, path);
            run_start = at + kPageBytes;
        }
    }
    return content;
}

UniqueFd open_memory_file(const GuestMemory& memory, const std::string& path) {
    UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    struct stat found{};
    if (!fd || ::fstat(fd.get(), &found) != 0) {
        const int saved = errno;
        fail(saved, "opening " + path);
    }
    if (static_cast<std::uint64_t>(found.st_size) != memory.size_bytes()) {
        throw Error("the memory file " + path + " has " + std::to_string(found.st_size) + " bytes instead of " +
                        std::to_string(memory.size_bytes()),
                    "SnapshotError", {{"field", std::string("memory size")}});
    }
    return fd;
}

// Calls `use(host, file offset, bytes)` for the pages given, at most 8 MiB at a time and never across two regions.
template <typename Use>
void for_each_part(const GuestMemory& memory, const PageBits& pages, const Use& use) {
    for_each_page_run(pages, [&](std::uint64_t first, std::uint64_t count) {
        for (const GuestRegion& region : memory.regions()) {
            const std::uint64_t begin = std::max(first * kPageBytes, region.file_offset);
            const std::uint64_t end = std::min((first + count) * kPageBytes, region.file_offset + region.size_bytes);
            for (std::uint64_t at = begin; at < end; at += kLargestWrite) {
                use(region.host + (at - region.file_offset), at, std::min(kLargestWrite, end - at));
            }
        }
    });
}

void add_changed(MemoryContent& content, const std::byte* host, std::uint64_t offset, std::uint64_t size) {
    for (std::uint64_t at = 0; at < size; at += kPageBytes) {
        const std::uint64_t file_page = (offset + at) / kPageBytes;
        ++content.data_pages;
        content.fingerprint += fingerprint_of(host + at, file_page).value_or(mix(~file_page));
    }
}

}  // namespace

MemoryContent write_memory(const GuestMemory& memory, int fd, std::uint64_t start, const std::string& path,
                           const std::atomic<bool>& cancelled) {
    MemoryContent content;
    for (const GuestRegion& region : memory.regions()) {
        const MemoryContent part = write_region(region, fd, start, path, cancelled);
        content.data_pages += part.data_pages;
        content.fingerprint += part.fingerprint;
    }
    return content;
}

MemoryContent write_diff(const GuestMemory& memory, const PageBits& pages, int fd, const std::string& path,
                         const std::atomic<bool>& cancelled) {
    MemoryContent content;
    for_each_part(memory, pages, [&](std::byte* host, std::uint64_t offset, std::uint64_t size) {
        stop_if(cancelled);
        add_changed(content, host, offset, size);
        write_all(fd, host, size, offset, path);
    });
    return content;
}

void read_diff(const GuestMemory& memory, const PageBits& pages, const std::string& path,
               const std::atomic<bool>& cancelled) {
    const UniqueFd fd = open_memory_file(memory, path);
    for_each_part(memory, pages, [&](std::byte* host, std::uint64_t offset, std::uint64_t size) {
        stop_if(cancelled);
        for (std::uint64_t done = 0; done < size;) {
            const ssize_t got = ::pread(fd.get(), host + done, static_cast<std::size_t>(size - done),
                                        static_cast<off_t>(offset + done));
            if (got <= 0 && !(got < 0 && errno == EINTR)) {
                const int saved = got < 0 ? errno : EIO;
                fail(saved, "reading " + path);
            }
            done += got > 0 ? static_cast<std::uint64_t>(got) : 0;
        }
    });
}

void read_memory_file(const GuestMemory& memory, const std::string& path, const std::atomic<bool>& cancelled) {
    const UniqueFd fd = open_memory_file(memory, path);
    for (const GuestRegion& region : memory.regions()) {
        const auto end = static_cast<off_t>(region.file_offset + region.size_bytes);
        auto offset = static_cast<off_t>(region.file_offset);
        while (offset < end) {
            stop_if(cancelled);
            off_t data = ::lseek(fd.get(), offset, SEEK_DATA);
            if (data < 0 && errno == ENXIO) {
                break;  // the rest is a hole
            }
            off_t stop = data < 0 ? end : ::lseek(fd.get(), data, SEEK_HOLE);
            data = data < 0 ? offset : data;  // a file system without holes
            stop = std::min<off_t>(stop < 0 ? end : stop, end);
            stop = std::min<off_t>(stop, data + static_cast<off_t>(kLargestWrite));
            data -= data % static_cast<off_t>(kPageBytes);
            if (data >= end) {
                break;
            }
            std::byte* const target = region.host + (static_cast<std::uint64_t>(data) - region.file_offset);
            const ssize_t got = ::pread(fd.get(), target, static_cast<std::size_t>(stop - data), data);
            if (got <= 0) {
                const int saved = got < 0 ? errno : EIO;
                if (saved == EINTR) {
                    continue;
                }
                fail(saved, "reading " + path);
            }
            offset = data + got;
        }
    }
}

MemoryContent content_of_memory(const GuestMemory& memory, const std::atomic<bool>& cancelled) {
    MemoryContent content;
    for (const GuestRegion& region : memory.regions()) {
        for (std::uint64_t at = 0; at < region.size_bytes; at += kPageBytes) {
            stop_if(cancelled);
            if (const auto sum = fingerprint_of(region.host + at, (region.file_offset + at) / kPageBytes)) {
                ++content.data_pages;
                content.fingerprint += *sum;
            }
        }
    }
    return content;
}

MemoryContent content_of_pages(const GuestMemory& memory, const PageBits& pages, const std::atomic<bool>& cancelled) {
    MemoryContent content;
    for_each_part(memory, pages, [&](const std::byte* host, std::uint64_t offset, std::uint64_t size) {
        stop_if(cancelled);
        add_changed(content, host, offset, size);
    });
    return content;
}

}  // namespace vmthaw
