#include "exercised_file.hpp"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/error.hpp"
#include "base/mapping.hpp"
#include "base/page.hpp"

namespace vmthaw::tools {
namespace {

constexpr std::size_t kMostAtOnce = 64 * 1024;

// The pages around a range, mapped.
struct Window {
    Mapping mapping;
    std::span<std::uint8_t> bytes;
};

Window map_window(int fd, std::size_t offset, std::size_t length, bool writes) {
    const std::size_t begin = offset / kPageBytes * kPageBytes;
    Window window;
    window.mapping = Mapping::map(offset + length - begin, writes ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd,
                                  begin, "mmap of the exercised file");
    auto* const bytes = reinterpret_cast<std::uint8_t*>(window.mapping.data());
    window.bytes = std::span(bytes + (offset - begin), length);
    return window;
}

}  // namespace

ExercisedFile::ExercisedFile(std::string path, std::uint64_t seed) : path_(std::move(path)), random_(seed) {
    open(O_CREAT | O_TRUNC);
}

void ExercisedFile::open(int flags) {
    fd_.reset(::open(path_.c_str(), O_RDWR | O_CLOEXEC | flags, 0644));
    must(static_cast<bool>(fd_), "open");
}

void ExercisedFile::must(bool done, const char* operation) const {
    const int saved = errno;
    if (!done) {
        throw SystemError(saved, std::string(operation) + " of " + path_);
    }
}

std::size_t ExercisedFile::below(std::size_t limit) { return limit == 0 ? 0 : random_() % limit; }

std::vector<std::uint8_t> ExercisedFile::random_bytes(std::size_t length) {
    std::vector<std::uint8_t> bytes(length);
    std::uint64_t word = 0;
    for (std::size_t index = 0; index < length; ++index) {
        word = index % sizeof word == 0 ? random_() : word >> 8U;
        bytes[index] = static_cast<std::uint8_t>(word);
    }
    return bytes;
}

ExercisedFile::Range ExercisedFile::range_in_file() {
    const std::size_t offset = below(expected_.size());
    return {offset, std::min(1 + below(kMostAtOnce), expected_.size() - offset)};
}

ExercisedFile::Range ExercisedFile::range_anywhere() {
    const std::size_t offset = below(kMostBytes - 1);
    return {offset, std::min(1 + below(kMostAtOnce), kMostBytes - offset)};
}

const char* ExercisedFile::step() {
    constexpr std::uint64_t kPer_mille = 1000;
    const std::uint64_t chosen = random_() % kPer_mille;
    if (chosen < 300) {
        read();
        return "read";
    }
    if (chosen < 570) {
        write();
        return "write";
    }
    if (chosen < 750) {
        write_mapped();
        return "write_mapped";
    }
    if (chosen < 830) {
        truncate();
        return "truncate";
    }
    if (chosen < 950) {
        allocate(chosen < 880 ? FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE : chosen < 920 ? FALLOC_FL_ZERO_RANGE : 0);
        return "allocate";
    }
    if (chosen < 980) {
        copy();
        return "copy";
    }
    if (chosen < 994) {
        reopen();
        return "reopen";
    }
    if (chosen < 996) {
        sync();
        return "sync";
    }
    replace_by_rename();
    return "replace_by_rename";
}

void ExercisedFile::read() {
    if (!expected_.empty()) {
        check(range_in_file());
    }
}

void ExercisedFile::grow_to(std::size_t size) {
    if (size > expected_.size()) {
        expected_.resize(size, 0);
    }
}

void ExercisedFile::write() {
    const Range range = range_anywhere();
    const std::vector<std::uint8_t> bytes = random_bytes(range.length);
    const ssize_t put = ::pwrite(fd_.get(), bytes.data(), bytes.size(), static_cast<off_t>(range.offset));
    must(put == static_cast<ssize_t>(bytes.size()), "pwrite");
    grow_to(range.offset + range.length);
    std::copy(bytes.begin(), bytes.end(), expected_.begin() + static_cast<std::ptrdiff_t>(range.offset));
    check(range);
}

void ExercisedFile::write_mapped() {
    const Range range = range_anywhere();
    if (range.offset + range.length > expected_.size()) {
        must(::ftruncate(fd_.get(), static_cast<off_t>(range.offset + range.length)) == 0, "ftruncate");
        grow_to(range.offset + range.length);
    }
    const std::vector<std::uint8_t> bytes = random_bytes(range.length);
    {
        const Window window = map_window(fd_.get(), range.offset, range.length, true);
        std::copy(bytes.begin(), bytes.end(), window.bytes.begin());
        if (below(100) == 0) {
            must(::msync(window.mapping.data(), window.mapping.size(), MS_SYNC) == 0, "msync");
        }
    }
    std::copy(bytes.begin(), bytes.end(), expected_.begin() + static_cast<std::ptrdiff_t>(range.offset));
    check(range);
}

void ExercisedFile::truncate() {
    const std::size_t size = below(kMostBytes);
    must(::ftruncate(fd_.get(), static_cast<off_t>(size)) == 0, "ftruncate");
    expected_.resize(size, 0);
    read();
}

void ExercisedFile::allocate(int mode) {
    const Range range = mode == 0 ? range_anywhere() : range_in_file();
    if (expected_.empty() || range.length == 0 || !punches_) {
        return;
    }
    if (::fallocate(fd_.get(), mode, static_cast<off_t>(range.offset), static_cast<off_t>(range.length)) != 0) {
        must(errno == EOPNOTSUPP, "fallocate");
        if (mode != 0) {
            return;  // this file system has no such mode
        }
        punches_ = false;
        return;
    }
    grow_to(range.offset + range.length);
    if (mode != 0) {
        const auto begin = expected_.begin() + static_cast<std::ptrdiff_t>(range.offset);
        std::fill(begin, begin + static_cast<std::ptrdiff_t>(range.length), 0);
    }
    check(range);
}

void ExercisedFile::copy() {
    if (!copies_ || expected_.size() < 2) {
        return;
    }
    Range from = range_in_file();
    const std::size_t to = below(kMostBytes - from.length);
    if (to < from.offset + from.length && from.offset < to + from.length) {
        return;  // within one file the two may not overlap
    }
    auto in = static_cast<std::int64_t>(from.offset);
    auto out = static_cast<std::int64_t>(to);
    const long copied = ::syscall(SYS_copy_file_range, fd_.get(), &in, fd_.get(), &out, from.length, 0);
    if (copied < 0) {
        must(errno == EOPNOTSUPP || errno == ENOSYS || errno == EXDEV, "copy_file_range");
        copies_ = false;
        return;
    }
    const auto length = static_cast<std::size_t>(copied);
    grow_to(to + length);
    std::copy_n(expected_.begin() + static_cast<std::ptrdiff_t>(from.offset), length,
                expected_.begin() + static_cast<std::ptrdiff_t>(to));
    check({to, length});
}

void ExercisedFile::reopen() {
    fd_.reset();
    open(0);
    read();
}

void ExercisedFile::sync() {
    must((below(2) == 0 ? ::fsync(fd_.get()) : ::fdatasync(fd_.get())) == 0, "fsync");
    read();
}

void ExercisedFile::replace_by_rename() {
    const std::string other = path_ + ".new";
    const UniqueFd fresh(::open(other.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    must(static_cast<bool>(fresh), "open");
    const ssize_t put = ::write(fresh.get(), expected_.data(), expected_.size());
    must(put == static_cast<ssize_t>(expected_.size()), "write");
    must(::rename(other.c_str(), path_.c_str()) == 0, "rename");
    verify_all();  // the old one, which has no name any more
    reopen();
}

void ExercisedFile::check_size() const {
    struct stat found{};
    must(::fstat(fd_.get(), &found) == 0, "fstat");
    if (static_cast<std::size_t>(found.st_size) != expected_.size()) {
        throw Error("the size is " + std::to_string(found.st_size) + ", and must be " +
                    std::to_string(expected_.size()));
    }
}

void ExercisedFile::check(Range range) {
    check_size();
    if (range.length == 0) {
        return;
    }
    if (below(2) == 0) {
        compare(map_window(fd_.get(), range.offset, range.length, false).bytes, range.offset, "the mapping");
        return;
    }
    std::vector<std::uint8_t> found(range.length);
    const ssize_t got = ::pread(fd_.get(), found.data(), found.size(), static_cast<off_t>(range.offset));
    must(got == static_cast<ssize_t>(found.size()), "pread");
    compare(found, range.offset, "read");
}

void ExercisedFile::compare(std::span<const std::uint8_t> found, std::size_t offset, const char* way) const {
    const auto expected = expected_.begin() + static_cast<std::ptrdiff_t>(offset);
    const auto [at, wanted] = std::mismatch(found.begin(), found.end(), expected);
    if (at != found.end()) {
        throw Error(std::string(way) + " gives " + std::to_string(*at) + " at offset " +
                    std::to_string(offset + static_cast<std::size_t>(at - found.begin())) + ", and must give " +
                    std::to_string(*wanted));
    }
}

void ExercisedFile::verify_all() { check({0, expected_.size()}); }

}  // namespace vmthaw::tools
