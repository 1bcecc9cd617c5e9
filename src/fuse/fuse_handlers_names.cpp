#include <cerrno>
#include <cstring>
#include <string>
#include <string_view>

#include "fuse/fuse_handlers.hpp"
#include "kernel/fuse.hpp"

namespace vmthaw::fuse_handlers {
namespace {

int do_rename(FuseCall& call, std::uint64_t new_parent, std::uint32_t flags) noexcept {
    const std::string_view name = call.in.take_name("oldname");
    const std::string_view new_name = call.in.take_name("newname");
    call.in.expect_end("newname");
    if ((flags & ~(kRenameNoReplace | kRenameExchange | kRenameWhiteout)) != 0 ||
        ((flags & kRenameExchange) != 0 && flags != kRenameExchange)) {
        call.in.fail(EINVAL, "flags");
    }
    if (call.in.error() != 0) {
        return call.in.error();
    }
    return call.file_system.rename(call.caller(), call.node(), name, new_parent, new_name, flags);
}

int reply_created(FuseCall& call, int error, const NodeEntry& entry, std::string_view name,
                  const OpenedFile& opened) noexcept {
    if (error == 0) {
        call.out.put(call.wire(entry, name));
        call.out.put(FuseOpenOut{opened.handle, opened.open_flags, 0});
        if (call.dax != nullptr) {
            call.dax->opened(entry.node);
        }
    }
    return error;
}

}  // namespace

int lookup(FuseCall& call) noexcept {
    const std::string_view name = call.in.take_lookup_name("name");
    call.in.expect_end("name");
    if (call.in.error() != 0) {
        return call.in.error();
    }
    NodeEntry entry;
    const int error = call.file_system.lookup(call.caller(), call.node(), name, entry);
    return call.reply(error, call.wire(entry, name));
}

int forget(FuseCall& call) noexcept {
    const auto request = call.in.take<FuseForgetIn>("forget");
    if (call.in.error() == 0) {
        call.forget(call.node(), request.nlookup);
    }
    return call.in.error();
}

int batch_forget(FuseCall& call) noexcept {
    const auto request = call.in.take<FuseBatchForgetIn>("batch_forget");
    // Nobody can be told of an error here: a batch that does not hold together forgets nothing.
    const std::span<const std::byte> entries =
        call.in.take_bytes(std::uint64_t{request.count} * sizeof(FuseForgetOne), "count");
    for (std::size_t at = 0; at < entries.size(); at += sizeof(FuseForgetOne)) {
        FuseForgetOne one;
        std::memcpy(&one, entries.data() + at, sizeof one);
        call.forget(one.nodeid, one.nlookup);
    }
    return call.in.error();
}

int readlink(FuseCall& call) noexcept {
    std::string target;
    const int error = call.file_system.readlink(call.caller(), call.node(), target);
    if (error == 0) {
        call.out.put_bytes(std::as_bytes(std::span(target)));
    }
    return error;
}

int symlink(FuseCall& call) noexcept {
    const std::string_view name = call.in.take_name("name");
    const std::string_view target = call.in.take_text(kFusePathMax_bytes, "target");
    call.in.expect_end("target");
    if (call.in.error() != 0) {
        return call.in.error();
    }
    NodeEntry entry;
    const int error = call.file_system.symlink(call.caller(), call.node(), name, target, entry);
    return call.reply(error, call.wire(entry, name));
}

int mknod(FuseCall& call) noexcept {
    const auto request = call.in.take<FuseMknodIn>("mknod");
    const std::string_view name = call.in.take_name("name");
    call.in.expect_end("name");
    if (call.in.error() != 0) {
        return call.in.error();
    }
    NodeEntry entry;
    const int error = call.file_system.mknod(call.caller(), call.node(), name, request, entry);
    return call.reply(error, call.wire(entry, name));
}

int mkdir(FuseCall& call) noexcept {
    const auto request = call.in.take<FuseMkdirIn>("mkdir");
    const std::string_view name = call.in.take_name("name");
    call.in.expect_end("name");
    if (call.in.error() != 0) {
        return call.in.error();
    }
    NodeEntry entry;
    const int error = call.file_system.mkdir(call.caller(), call.node(), name, request, entry);
    return call.reply(error, call.wire(entry, name));
}

int unlink(FuseCall& call) noexcept {
    const std::string_view name = call.in.take_name("name");
    call.in.expect_end("name");
    return call.in.error() != 0 ? call.in.error() : call.file_system.unlink(call.caller(), call.node(), name);
}

int rmdir(FuseCall& call) noexcept {
    const std::string_view name = call.in.take_name("name");
    call.in.expect_end("name");
    return call.in.error() != 0 ? call.in.error() : call.file_system.rmdir(call.caller(), call.node(), name);
}

int rename(FuseCall& call) noexcept {
    const auto request = call.in.take<FuseRenameIn>("rename");
    return do_rename(call, request.newdir, 0);
}

int rename2(FuseCall& call) noexcept {
    const auto request = call.in.take<FuseRename2In>("rename2");
    return do_rename(call, request.newdir, request.flags);
}

int link(FuseCall& call) noexcept {
    const auto request = call.in.take<FuseLinkIn>("link");
    const std::string_view name = call.in.take_name("newname");
    call.in.expect_end("newname");
    if (call.in.error() != 0) {
        return call.in.error();
    }
    NodeEntry entry;
    const int error = call.file_system.link(call.caller(), request.oldnodeid, call.node(), name, entry);
    return call.reply(error, call.wire(entry, name));
}

int create(FuseCall& call) noexcept {
    const auto request = call.in.take<FuseCreateIn>("create");
    const std::string_view name = call.in.take_name("name");
    call.in.expect_end("name");
    if (call.in.error() != 0) {
        return call.in.error();
    }
    NodeEntry entry;
    OpenedFile opened;
    const int error = call.file_system.create(call.caller(), call.node(), name, request, entry, opened);
    return reply_created(call, error, entry, name, opened);
}

int tmpfile(FuseCall& call) noexcept {
    // Linux sends a name besides, which means nothing.
    const auto request = call.in.take<FuseCreateIn>("create");
    if (call.in.error() != 0) {
        return call.in.error();
    }
    NodeEntry entry;
    OpenedFile opened;
    const int error = call.file_system.tmpfile(call.caller(), call.node(), request, entry, opened);
    return reply_created(call, error, entry, {}, opened);
}

}  // namespace vmthaw::fuse_handlers
