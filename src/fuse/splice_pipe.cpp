#include "fuse/splice_pipe.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>

#include "base/page.hpp"

namespace vmthaw {
namespace {

constexpr std::size_t kUsersPipe_bytes = std::size_t{1} << 20U;

}  // namespace

SplicePipe::SplicePipe(std::size_t reply_bytes) noexcept : wanted_bytes_(reply_bytes + 2 * kPageBytes) {
    if (reply_bytes > 0) {
        reopen();
    }
}

void SplicePipe::reopen() noexcept {
    read_end_.reset();
    write_end_.reset();
    room_bytes_ = 0;
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK) != 0) {
        return;
    }
    read_end_.reset(ends[0]);
    write_end_.reset(ends[1]);
    // Users have pipes of at most 1 MiB (fs.pipe-max-size).
    int size = ::fcntl(write_end_.get(), F_SETPIPE_SZ, static_cast<int>(wanted_bytes_));
    if (size < 0) {
        size = ::fcntl(write_end_.get(), F_SETPIPE_SZ, static_cast<int>(kUsersPipe_bytes));
    }
    room_bytes_ = size < 0 ? 0 : static_cast<std::size_t>(size) - 2 * kPageBytes;
}

SplicePipe::Outcome SplicePipe::send(int device, std::span<const std::byte> header, const FileBytes& bytes,
                                     int& error) noexcept {
    if (bytes.length_bytes > room_bytes_ ||
        ::write(write_end_.get(), header.data(), header.size()) != static_cast<ssize_t>(header.size())) {
        return Outcome::not_sent;
    }
    auto offset = static_cast<off_t>(bytes.offset_bytes);
    std::uint64_t missing = bytes.length_bytes;
    while (missing > 0) {
        const ssize_t got = ::splice(bytes.file->get(), &offset, write_end_.get(), nullptr, missing, SPLICE_F_MOVE);
        if (got <= 0) {
            reopen();  // what is in it must not go out
            return Outcome::not_sent;
        }
        missing -= static_cast<std::uint64_t>(got);
    }
    const std::size_t total = header.size() + bytes.length_bytes;
    const ssize_t sent = ::splice(read_end_.get(), nullptr, device, nullptr, total, SPLICE_F_MOVE);
    if (sent == static_cast<ssize_t>(total)) {
        return Outcome::sent;
    }
    error = sent < 0 ? errno : EIO;
    reopen();
    return Outcome::failed;
}

}  // namespace vmthaw
