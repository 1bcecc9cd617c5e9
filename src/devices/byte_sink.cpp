#include "devices/byte_sink.hpp"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "base/error.hpp"

namespace vmthaw {
namespace {

constexpr std::size_t kLargestBuffer = std::size_t{1} << 30U;
// A pipe that polls writable takes this much without blocking (PIPE_BUF), whoever opened it how.
constexpr std::size_t kPiece = 4096;

std::size_t checked(std::size_t bytes, const char* what) {
    if (bytes == 0 || bytes > kLargestBuffer) {
        throw ArgumentError(std::string(what) + " is " + std::to_string(bytes) +
                            " bytes; it must be from 1 byte to 1 GiB");
    }
    return bytes;
}

}  // namespace

OutputBuffer::OutputBuffer(std::size_t capacity_bytes)
    : capacity_(checked(capacity_bytes, "the capacity")), bytes_(new std::uint8_t[capacity_]) {}

void OutputBuffer::write(std::span<const std::uint8_t> data) noexcept {
    if (guard_.inherited() || data.empty()) {
        return;
    }
    const std::lock_guard lock(mutex_);
    if (closed_) {
        dropped_ += data.size();
        return;
    }
    if (data.size() > capacity_) {
        dropped_ += data.size() - capacity_;
        data = data.last(capacity_);
    }
    const std::size_t room = capacity_ - used_;
    if (data.size() > room) {
        const std::size_t lost = data.size() - room;
        first_ = (first_ + lost) % capacity_;
        used_ -= lost;
        dropped_ += lost;
    }
    const std::size_t start = (first_ + used_) % capacity_;
    const std::size_t head = std::min(data.size(), capacity_ - start);
    std::memcpy(bytes_.get() + start, data.data(), head);
    std::memcpy(bytes_.get(), data.data() + head, data.size() - head);
    used_ += data.size();
    arrived_.notify_all();
}

std::vector<std::uint8_t> OutputBuffer::take(std::size_t limit) {
    guard_.check("OutputBuffer");
    const std::lock_guard lock(mutex_);
    std::vector<std::uint8_t> out(std::min(limit, used_));
    const std::size_t head = std::min(out.size(), capacity_ - first_);
    std::copy_n(bytes_.get() + first_, head, out.begin());
    std::copy_n(bytes_.get(), out.size() - head, out.begin() + static_cast<std::ptrdiff_t>(head));
    used_ -= out.size();
    first_ = used_ == 0 ? 0 : (first_ + out.size()) % capacity_;
    return out;
}

bool OutputBuffer::wait(std::chrono::milliseconds timeout) {
    guard_.check("OutputBuffer");
    std::unique_lock lock(mutex_);
    return arrived_.wait_for(lock, timeout, [&] { return used_ > 0 || closed_; });
}

void OutputBuffer::close() noexcept {
    if (guard_.inherited()) {
        return;
    }
    const std::lock_guard lock(mutex_);
    closed_ = true;
    arrived_.notify_all();
}

bool OutputBuffer::is_closed() const {
    guard_.check("OutputBuffer");
    const std::lock_guard lock(mutex_);
    return closed_;
}

std::size_t OutputBuffer::size_bytes() const {
    guard_.check("OutputBuffer");
    const std::lock_guard lock(mutex_);
    return used_;
}

std::uint64_t OutputBuffer::dropped_bytes() const {
    guard_.check("OutputBuffer");
    const std::lock_guard lock(mutex_);
    return dropped_;
}

DescriptorSink::DescriptorSink(UniqueFd fd, std::size_t backlog_bytes)
    : fd_(std::move(fd)), capacity_(checked(backlog_bytes, "the backlog")), backlog_(new std::uint8_t[capacity_]) {}

DescriptorSink::~DescriptorSink() { flush(); }

std::size_t DescriptorSink::write_now(std::span<const std::uint8_t> data) noexcept {
    std::size_t done = 0;
    while (done < data.size() && errno_ == 0) {
        pollfd waiting{fd_.get(), POLLOUT, 0};
        const int ready = ::poll(&waiting, 1, 0);
        if (ready == 0 || (ready < 0 && errno == EINTR)) {
            break;
        }
        const ssize_t written = ::write(fd_.get(), data.data() + done, std::min(data.size() - done, kPiece));
        if (written >= 0) {
            done += static_cast<std::size_t>(written);
        } else if (errno == EAGAIN) {
            break;
        } else if (errno != EINTR) {
            errno_ = errno;
        }
    }
    return done;
}

void DescriptorSink::flush_backlog() noexcept {
    const std::size_t done = write_now({backlog_.get(), used_});
    if (done > 0) {
        std::memmove(backlog_.get(), backlog_.get() + done, used_ - done);
        used_ -= done;
    }
    if (errno_ != 0) {
        dropped_ += used_;
        used_ = 0;
    }
}

void DescriptorSink::write(std::span<const std::uint8_t> data) noexcept {
    if (guard_.inherited()) {
        return;
    }
    const std::lock_guard lock(mutex_);
    flush_backlog();
    if (used_ == 0) {
        data = data.subspan(write_now(data));
    }
    const std::size_t kept = errno_ == 0 ? std::min(data.size(), capacity_ - used_) : 0;
    std::copy_n(data.begin(), kept, backlog_.get() + used_);
    used_ += kept;
    dropped_ += data.size() - kept;
}

bool DescriptorSink::flush() noexcept {
    if (guard_.inherited()) {
        return false;
    }
    const std::lock_guard lock(mutex_);
    flush_backlog();
    return used_ == 0;
}

std::uint64_t DescriptorSink::dropped_bytes() const {
    guard_.check("DescriptorSink");
    const std::lock_guard lock(mutex_);
    return dropped_;
}

int DescriptorSink::errno_value() const {
    guard_.check("DescriptorSink");
    const std::lock_guard lock(mutex_);
    return errno_;
}

}  // namespace vmthaw
