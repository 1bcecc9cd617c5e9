#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <limits>
#include <utility>

#include "fuse/fuse_handlers.hpp"
#include "kernel/fuse.hpp"

namespace vmthaw::fuse_handlers {
namespace {

constexpr std::uint64_t kOffsetMax = std::numeric_limits<std::int64_t>::max();

// `offset` and `length` stay within what an off_t can say.
void check_range(RequestReader& in, std::uint64_t offset, std::uint64_t length, int beyond,
                 const char* field) noexcept {
    if (offset > kOffsetMax) {
        in.fail(EINVAL, field);
    } else if (length > kOffsetMax - offset) {
        in.fail(beyond, field);
    }
}

// Takes the request of either opcode; those who reply in 32 bits must not be given more.
int do_copy(FuseCall& call, std::uint64_t limit, std::uint64_t& copied) noexcept {
    auto request = call.in.take<FuseCopyFileRangeIn>("copy_file_range");
    request.len = std::min(request.len, limit);
    check_range(call.in, request.off_in, request.len, EOVERFLOW, "off_in");
    check_range(call.in, request.off_out, request.len, EFBIG, "off_out");
    if (request.flags != 0) {
        call.in.fail(EINVAL, "flags");
    }
    if (call.in.error() != 0) {
        return call.in.error();
    }
    return call.file_system.copy_file_range(call.caller(), call.node(), request, copied);
}

}  // namespace

int open(FuseCall& call) noexcept {
    const auto request = call.in.take<FuseOpenIn>("open");
    if (call.in.error() != 0) {
        return call.in.error();
    }
    OpenedFile opened;
    const int error = call.file_system.open(call.caller(), call.node(), request, opened);
    if (error == 0 && call.dax != nullptr) {
        call.dax->opened(call.node());
    }
    return call.reply(error, FuseOpenOut{opened.handle, opened.open_flags, 0});
}

int read(FuseCall& call) noexcept {
    const auto request = call.in.take<FuseReadIn>("read");
    check_range(call.in, request.offset, request.size, EINVAL, "offset");
    if (request.size > call.out.room()) {
        call.in.fail(EINVAL, "size");
    }
    if (call.in.error() != 0) {
        return call.in.error();
    }
    ReadAnswer answer;
    answer.buffer = call.out.next(request.size);
    answer.accepts_file = call.file_bytes != nullptr;
    const int error = call.file_system.read(call.caller(), call.node(), request, answer);
    if (error != 0) {
        return error;
    }
    if (answer.file_bytes.file != nullptr && call.file_bytes != nullptr) {
        answer.file_bytes.length_bytes = std::min<std::uint64_t>(answer.file_bytes.length_bytes, request.size);
        call.elsewhere_bytes = static_cast<std::size_t>(answer.file_bytes.length_bytes);
        *call.file_bytes = std::move(answer.file_bytes);
        return 0;
    }
    call.out.advance(std::min<std::size_t>(answer.length_bytes, request.size));
    return 0;
}

int write(FuseCall& call) noexcept {
    const auto request = call.in.take<FuseWriteIn>("write");
    check_range(call.in, request.offset, request.size, EFBIG, "offset");
    const std::span<const std::byte> data = call.in.take_bytes(request.size, "size");
    call.in.expect_end("size");
    if (call.in.error() != 0) {
        return call.in.error();
    }
    std::uint32_t written = 0;
    const int error = call.file_system.write(call.caller(), call.node(), request, data, written);
    return call.reply(error, FuseWriteOut{std::min(written, request.size), 0});
}

int flush(FuseCall& call) noexcept {
    const auto request = call.in.take<FuseFlushIn>("flush");
    return call.in.error() != 0 ? call.in.error() : call.file_system.flush(call.caller(), call.node(), request);
}

int release(FuseCall& call) noexcept {
    const auto request = call.in.take<FuseReleaseIn>("release");
    return call.in.error() != 0 ? call.in.error() : call.file_system.release(call.caller(), call.node(), request);
}

int fsync(FuseCall& call) noexcept {
    const auto request = call.in.take<FuseFsyncIn>("fsync");
    if (call.in.error() != 0) {
        return call.in.error();
    }
    return call.file_system.fsync(call.caller(), call.node(), request.fh,
                                  (request.fsync_flags & kFuseFsyncDataOnly) != 0);
}

int fallocate(FuseCall& call) noexcept {
    const auto request = call.in.take<FuseFallocateIn>("fallocate");
    if (request.length == 0 || request.length > kOffsetMax) {
        call.in.fail(EINVAL, "length");
    }
    check_range(call.in, request.offset, request.length, EFBIG, "offset");
    return call.in.error() != 0 ? call.in.error() : call.file_system.fallocate(call.caller(), call.node(), request);
}

int lseek(FuseCall& call) noexcept {
    const auto request = call.in.take<FuseLseekIn>("lseek");
    if (request.offset > kOffsetMax) {
        call.in.fail(ENXIO, "offset");
    }
    if (call.in.error() != 0) {
        return call.in.error();
    }
    FuseLseekOut answer;
    const int error = call.file_system.lseek(call.caller(), call.node(), request, answer.offset);
    return call.reply(error, answer);
}

int copy_file_range(FuseCall& call) noexcept {
    std::uint64_t copied = 0;
    const int error = do_copy(call, std::numeric_limits<std::uint32_t>::max(), copied);
    return call.reply(error, FuseWriteOut{static_cast<std::uint32_t>(copied), 0});
}

int copy_file_range_64(FuseCall& call) noexcept {
    FuseCopyFileRangeOut answer;
    const int error = do_copy(call, kOffsetMax, answer.bytes_copied);
    return call.reply(error, answer);
}

int setupmapping(FuseCall& call) noexcept {
    return call.dax == nullptr ? ENOSYS : call.dax->setup_mapping(call.node(), call.in.rest());
}

int removemapping(FuseCall& call) noexcept {
    return call.dax == nullptr ? ENOSYS : call.dax->remove_mapping(call.node(), call.in.rest());
}

}  // namespace vmthaw::fuse_handlers
