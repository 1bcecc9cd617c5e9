#include "fuse/fuse_reader.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "base/log.hpp"
#include "base/page.hpp"
#include "fuse/read_kick.hpp"
#include "fuse_protocol/fuse_replies.hpp"
#include "fuse_protocol/fuse_requests.hpp"

namespace vmthaw {
namespace {

constexpr std::size_t kLeastReadBytes = 8192;  // FUSE_MIN_READ_BUFFER
constexpr std::size_t kWriteHeadBytes = sizeof(FuseInHeader) + sizeof(FuseWriteIn);
constexpr std::size_t kReadHeadBytes = sizeof(FuseOutHeader);

// Room for `size` bytes whose data, behind `head_bytes`, begins at a page: copies of whole pages are faster.
std::span<std::byte> room(Mapping& memory, std::size_t size, std::size_t head_bytes) {
    const std::size_t skipped = kPageBytes - head_bytes;
    memory = Mapping::anonymous((skipped + size + kPageBytes - 1) / kPageBytes * kPageBytes);
    return memory.bytes().subspan(skipped, size);
}

void log_errno(const char* what, int error) noexcept {
    std::array<char, 128> text{};
    const int length = std::snprintf(text.data(), text.size(), "%s: errno %d", what, error);
    log_line(LogLevel::error, "fuse", {text.data(), static_cast<std::size_t>(length)});
}

}  // namespace

FuseReader::FuseReader(const FuseDevice& device, FuseDispatcher& dispatcher, FuseCounters& counters, bool splices)
    : device_(device.clone()),
      dispatcher_(dispatcher),
      counters_(counters),
      request_(room(request_memory_, std::max(dispatcher.max_request_bytes(), kLeastReadBytes), kWriteHeadBytes)),
      reply_(room(reply_memory_, dispatcher.max_reply_bytes(), kReadHeadBytes)),
      pipe_(splices ? dispatcher.max_reply_bytes() : 0) {}

FuseReader::End FuseReader::run() {
    const ReadKick kick;
    return loop();
}

FuseReader::End FuseReader::loop() noexcept {
    for (;;) {
        const std::int64_t got = device_.read(request_);
        if (got > 0) {
            counters_.requests.fetch_add(1, std::memory_order_relaxed);
            answer(request_.first(static_cast<std::size_t>(got)));
        } else if (got == 0) {
            return End::told_to;
        } else if (got == -ENODEV) {
            return End::unmounted;
        } else if (got != -EINTR && got != -ENOENT && got != -EAGAIN) {
            log_errno("reading /dev/fuse failed", static_cast<int>(-got));
            return End::error;
        }
    }
}

void FuseReader::answer(std::span<const std::byte> request) noexcept {
    FileBytes bytes;
    std::size_t size = dispatcher_.dispatch(request, reply_, pipe_ ? &bytes : nullptr);
    if (size > 0 && bytes.file != nullptr) {
        int error = 0;
        const auto outcome = pipe_.send(device_.fd(), reply_.first(size), bytes, error);
        if (outcome != SplicePipe::Outcome::not_sent) {
            counters_.spliced.fetch_add(1, std::memory_order_relaxed);
            count(error, request, reply_.first(size));
            return;
        }
        size = dispatcher_.dispatch(request, reply_);
    }
    if (size > 0) {
        const auto reply = reply_.first(size);
        count(device_.write(reply), request, reply);
    }
}

void FuseReader::count(int error, std::span<const std::byte> request, std::span<const std::byte> reply) noexcept {
    if (error == 0) {
        counters_.replies.fetch_add(1, std::memory_order_relaxed);
        return;
    }
    dispatcher_.undelivered(request, reply);
    if (error == ENOENT || error == ENODEV) {
        counters_.unwanted.fetch_add(1, std::memory_order_relaxed);
        return;
    }
    counters_.refused.fetch_add(1, std::memory_order_relaxed);
    log_errno("the kernel does not take a reply", error);
    FuseOutHeader header;  // else whoever asked would wait until the unmount
    std::memcpy(&header, reply.data(), sizeof header);
    header.len = sizeof header;
    header.error = -EIO;
    static_cast<void>(device_.write(std::as_bytes(std::span(&header, 1))));
}

void FuseReader::end() noexcept {
    if (const int error = device_.cut(); error != 0) {
        log_errno("a reader keeps its device", error);
    }
    ReadKick::kick(thread_);
}

}  // namespace vmthaw
