#include <sys/xattr.h>

#include <cerrno>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>

#include "fuse/fuse_handlers.hpp"
#include "kernel/fuse.hpp"

namespace vmthaw::fuse_handlers {
namespace {

constexpr std::size_t kXattrValueMax_bytes = 65536;  // XATTR_SIZE_MAX
constexpr std::uint32_t kSetattrKnown = (kFattrKillSuidgid << 1U) - 1;

FuseStatx from_attributes(const FuseAttr& attr) noexcept {
    FuseStatx stat;
    stat.mask = kStatxBasicStats;
    stat.blksize = attr.blksize;
    stat.nlink = attr.nlink;
    stat.uid = attr.uid;
    stat.gid = attr.gid;
    stat.mode = static_cast<std::uint16_t>(attr.mode);
    stat.ino = attr.ino;
    stat.size = attr.size;
    stat.blocks = attr.blocks;
    stat.atime = {static_cast<std::int64_t>(attr.atime), attr.atimensec, 0};
    stat.ctime = {static_cast<std::int64_t>(attr.ctime), attr.ctimensec, 0};
    stat.mtime = {static_cast<std::int64_t>(attr.mtime), attr.mtimensec, 0};
    stat.rdev_major = (attr.rdev >> 8U) & 0xfff;
    stat.rdev_minor = (attr.rdev & 0xff) | ((attr.rdev >> 12U) & 0xfff00);
    return stat;
}

// The rule of getxattr(2) and listxattr(2): size 0 asks how much it is, and too small a buffer is ERANGE.
int reply_sized(FuseCall& call, const std::string& value, std::uint32_t size) noexcept {
    if (size == 0) {
        return call.reply(0, FuseGetxattrOut{static_cast<std::uint32_t>(value.size()), 0});
    }
    if (value.size() > size || value.size() > call.out.room()) {
        return ERANGE;
    }
    call.out.put_bytes(std::as_bytes(std::span(value)));
    return 0;
}

}  // namespace

int getattr(FuseCall& call) noexcept {
    const auto request = call.in.take<FuseGetattrIn>("getattr");
    if (call.in.error() != 0) {
        return call.in.error();
    }
    NodeAttributes attributes;
    const std::uint64_t handle = (request.getattr_flags & kFuseGetattrHandle) != 0 ? request.fh : kFuseNoHandle;
    const int error = call.file_system.getattr(call.caller(), call.node(), handle, attributes);
    return call.reply(error, call.wire(call.node(), attributes));
}

int setattr(FuseCall& call) noexcept {
    const auto request = call.in.take<FuseSetattrIn>("setattr");
    if ((request.valid & ~kSetattrKnown) != 0) {
        call.in.fail(EINVAL, "valid");
    }
    if ((request.valid & kFattrSize) != 0 && request.size > std::uint64_t{std::numeric_limits<std::int64_t>::max()}) {
        call.in.fail(EINVAL, "size");
    }
    constexpr std::uint32_t second = 1'000'000'000;
    if (request.atimensec >= second || request.mtimensec >= second || request.ctimensec >= second) {
        call.in.fail(EINVAL, "nsec");
    }
    if (call.in.error() != 0) {
        return call.in.error();
    }
    NodeAttributes attributes;
    const int error = call.file_system.setattr(call.caller(), call.node(), request, attributes);
    return call.reply(error, call.wire(call.node(), attributes));
}

int statx(FuseCall& call) noexcept {
    const auto request = call.in.take<FuseStatxIn>("statx");
    if (call.in.error() != 0) {
        return call.in.error();
    }
    const std::uint64_t handle = (request.getattr_flags & kFuseGetattrHandle) != 0 ? request.fh : kFuseNoHandle;
    FuseStatxOut answer;
    int error =
        call.file_system.statx(call.caller(), call.node(), handle, request.sx_flags, request.sx_mask, answer.stat);
    NodeAttributes attributes;
    if (error == ENOSYS) {
        error = call.file_system.getattr(call.caller(), call.node(), handle, attributes);
        answer.stat = from_attributes(attributes.attr);
    }
    const FuseAttrOut times = call.wire(call.node(), attributes);
    answer.attr_valid = times.attr_valid;
    answer.attr_valid_nsec = times.attr_valid_nsec;
    return call.reply(error, answer);
}

int access(FuseCall& call) noexcept {
    const auto request = call.in.take<FuseAccessIn>("access");
    if (request.mask > 7) {
        call.in.fail(EINVAL, "mask");
    }
    return call.in.error() != 0 ? call.in.error() : call.file_system.access(call.caller(), call.node(), request.mask);
}

int setxattr(FuseCall& call) noexcept {
    // The second half of the structure came with kFuseSetxattrExt.
    const bool extended = (call.session.flags & kFuseSetxattrExt) != 0;
    FuseSetxattrIn request;
    if (extended) {
        request = call.in.take<FuseSetxattrIn>("setxattr");
    } else {
        const auto old = call.in.take<FuseGetxattrIn>("setxattr");
        request.size = old.size;
        request.flags = old.padding;
    }
    const std::string_view name = call.in.take_text(kFuseNameMax_bytes, "name");
    if (request.size > kXattrValueMax_bytes) {
        call.in.fail(E2BIG, "size");
    }
    if ((request.flags & ~std::uint32_t{XATTR_CREATE | XATTR_REPLACE}) != 0) {
        call.in.fail(EINVAL, "flags");
    }
    const std::span<const std::byte> value = call.in.take_bytes(request.size, "size");
    call.in.expect_end("size");
    if (call.in.error() != 0) {
        return call.in.error();
    }
    return call.file_system.setxattr(call.caller(), call.node(), name, value, request.flags);
}

int getxattr(FuseCall& call) noexcept {
    const auto request = call.in.take<FuseGetxattrIn>("getxattr");
    const std::string_view name = call.in.take_text(kFuseNameMax_bytes, "name");
    call.in.expect_end("name");
    if (call.in.error() != 0) {
        return call.in.error();
    }
    std::string value;
    const int error = call.file_system.getxattr(call.caller(), call.node(), name, value);
    return error != 0 ? error : reply_sized(call, value, request.size);
}

int listxattr(FuseCall& call) noexcept {
    const auto request = call.in.take<FuseGetxattrIn>("getxattr");
    if (call.in.error() != 0) {
        return call.in.error();
    }
    std::string names;
    const int error = call.file_system.listxattr(call.caller(), call.node(), names);
    return error != 0 ? error : reply_sized(call, names, request.size);
}

int removexattr(FuseCall& call) noexcept {
    const std::string_view name = call.in.take_text(kFuseNameMax_bytes, "name");
    call.in.expect_end("name");
    return call.in.error() != 0 ? call.in.error() : call.file_system.removexattr(call.caller(), call.node(), name);
}

int statfs(FuseCall& call) noexcept {
    FuseStatfs answer;
    const int error = call.file_system.statfs(call.caller(), call.node(), answer);
    return call.reply(error, answer);
}

int syncfs(FuseCall& call) noexcept { return call.file_system.syncfs(call.caller(), call.node()); }

int interrupt(FuseCall& call) noexcept {
    const auto request = call.in.take<FuseInterruptIn>("interrupt");
    if (call.in.error() != 0) {
        return call.in.error();
    }
    const int error = call.file_system.interrupt(request.unique);
    call.silent = error == 0;
    return error;
}

// The answer to a notification that nobody sends here.
int notify_reply(FuseCall& /*call*/) noexcept { return 0; }

}  // namespace vmthaw::fuse_handlers
