#include "fuse/fuse_handlers.hpp"

#include <array>

#include "kernel/fuse.hpp"

namespace vmthaw {
namespace {

using Table = std::array<FuseHandler, static_cast<std::size_t>(FuseOpcode::copy_file_range_64) + 1>;

constexpr Table make_table() noexcept {
    Table table{};
    const auto set = [&table](FuseOpcode opcode, int (*run)(FuseCall&) noexcept, std::size_t reply_bytes = 0,
                              bool silent = false) {
        table[static_cast<std::size_t>(opcode)] = {run, static_cast<std::uint16_t>(reply_bytes), silent};
    };
    namespace handlers = fuse_handlers;
    constexpr std::size_t entry = sizeof(FuseEntryOut);
    set(FuseOpcode::lookup, handlers::lookup, entry);
    set(FuseOpcode::forget, handlers::forget, 0, true);
    set(FuseOpcode::getattr, handlers::getattr, sizeof(FuseAttrOut));
    set(FuseOpcode::setattr, handlers::setattr, sizeof(FuseAttrOut));
    set(FuseOpcode::readlink, handlers::readlink);
    set(FuseOpcode::symlink, handlers::symlink, entry);
    set(FuseOpcode::mknod, handlers::mknod, entry);
    set(FuseOpcode::mkdir, handlers::mkdir, entry);
    set(FuseOpcode::unlink, handlers::unlink);
    set(FuseOpcode::rmdir, handlers::rmdir);
    set(FuseOpcode::rename, handlers::rename);
    set(FuseOpcode::link, handlers::link, entry);
    set(FuseOpcode::open, handlers::open, sizeof(FuseOpenOut));
    set(FuseOpcode::read, handlers::read);
    set(FuseOpcode::write, handlers::write, sizeof(FuseWriteOut));
    set(FuseOpcode::statfs, handlers::statfs, sizeof(FuseStatfs));
    set(FuseOpcode::release, handlers::release);
    set(FuseOpcode::fsync, handlers::fsync);
    set(FuseOpcode::setxattr, handlers::setxattr);
    set(FuseOpcode::getxattr, handlers::getxattr);
    set(FuseOpcode::listxattr, handlers::listxattr);
    set(FuseOpcode::removexattr, handlers::removexattr);
    set(FuseOpcode::flush, handlers::flush);
    set(FuseOpcode::opendir, handlers::opendir, sizeof(FuseOpenOut));
    set(FuseOpcode::readdir, handlers::readdir);
    set(FuseOpcode::releasedir, handlers::releasedir);
    set(FuseOpcode::fsyncdir, handlers::fsyncdir);
    set(FuseOpcode::access, handlers::access);
    set(FuseOpcode::create, handlers::create, entry + sizeof(FuseOpenOut));
    set(FuseOpcode::interrupt, handlers::interrupt);
    set(FuseOpcode::notify_reply, handlers::notify_reply, 0, true);
    set(FuseOpcode::batch_forget, handlers::batch_forget, 0, true);
    set(FuseOpcode::fallocate, handlers::fallocate);
    set(FuseOpcode::readdirplus, handlers::readdirplus);
    set(FuseOpcode::rename2, handlers::rename2);
    set(FuseOpcode::lseek, handlers::lseek, sizeof(FuseLseekOut));
    set(FuseOpcode::copy_file_range, handlers::copy_file_range, sizeof(FuseWriteOut));
    set(FuseOpcode::setupmapping, handlers::setupmapping);
    set(FuseOpcode::removemapping, handlers::removemapping);
    set(FuseOpcode::syncfs, handlers::syncfs);
    set(FuseOpcode::tmpfile, handlers::tmpfile, entry + sizeof(FuseOpenOut));
    set(FuseOpcode::statx, handlers::statx, sizeof(FuseStatxOut));
    set(FuseOpcode::copy_file_range_64, handlers::copy_file_range_64, sizeof(FuseCopyFileRangeOut));
    return table;
}

constexpr Table kHandlers = make_table();

}  // namespace

FuseHandler fuse_handler(std::uint32_t opcode) noexcept {
    return opcode < kHandlers.size() ? kHandlers[opcode] : FuseHandler{};
}

}  // namespace vmthaw
