#include "testing/memory_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/error.hpp"
#include "base/page.hpp"
#include "base/write_all.hpp"
#include "testing/splitmix.hpp"

namespace vmthaw::testing {
namespace {

constexpr std::uint64_t kPieceBytes = 2U << 20U;  // large pieces: the page cache then holds large folios

bool is_zero_page(std::uint64_t page, double zero_share, std::uint64_t seed) {
    return SplitMix(mix64(seed) ^ mix64(page)).unit() < zero_share;
}

void fill_page(std::byte* out, std::uint64_t page, std::uint64_t seed) {
    const std::uint64_t stamp = mix64(seed ^ mix64(page));
    for (std::uint64_t word = 0; word < kPageBytes / 8; ++word) {
        // The page's number in clear first, for whoever looks at a dump.
        const std::uint64_t value = word == 0 ? page + 1 : stamp + word;
        std::memcpy(out + word * 8, &value, sizeof value);
    }
}

}  // namespace

void write_memory_file(const std::string& path, std::uint64_t size, double zero_share, std::uint64_t seed,
                       bool sparse) {
    if (std::isnan(zero_share) || zero_share < 0.0 || zero_share > 1.0) {
        throw ArgumentError("zero_share must be between 0 and 1");
    }
    const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    if (!fd || ::ftruncate(fd.get(), static_cast<off_t>(size)) != 0) {
        const int saved = errno;
        throw SystemError(saved, "creating " + path);
    }
    std::vector<std::byte> piece(kPieceBytes);
    for (std::uint64_t start = 0; start < size; start += kPieceBytes) {
        const std::uint64_t end = std::min(size, start + kPieceBytes);
        std::uint64_t run_start = start;  // of bytes in `piece` that are not written yet
        for (std::uint64_t at = start; at < end; at += kPageBytes) {
            const std::uint64_t page = at / kPageBytes;
            std::byte* const out = piece.data() + (at - start);
            if (!is_zero_page(page, zero_share, seed)) {
                fill_page(out, page, seed);
            } else if (sparse) {
                write_all(fd.get(), piece.data() + (run_start - start), at - run_start, run_start, path);
                run_start = std::min(end, at + kPageBytes);
            } else {
                std::memset(out, 0, kPageBytes);
            }
        }
        write_all(fd.get(), piece.data() + (run_start - start), end - run_start, run_start, path);
    }
}

MemoryFileReader::MemoryFileReader(const std::string& path) : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    struct stat found{};
    if (!fd_ || ::fstat(fd_.get(), &found) != 0) {
        const int saved = errno;
        throw SystemError(saved, "opening the memory file " + path);
    }
    size_ = static_cast<std::uint64_t>(found.st_size);
}

void MemoryFileReader::read(std::uint64_t offset, std::span<std::byte> out) const {
    while (!out.empty()) {
        const ssize_t got = ::pread(fd_.get(), out.data(), out.size(), static_cast<off_t>(offset));
        if (got < 0) {
            const int saved = errno;
            if (saved == EINTR) {
                continue;
            }
            throw SystemError(saved, "reading the memory file");
        }
        if (got == 0) {
            std::memset(out.data(), 0, out.size());
            return;
        }
        out = out.subspan(static_cast<std::size_t>(got));
        offset += static_cast<std::uint64_t>(got);
    }
}

}  // namespace vmthaw::testing
