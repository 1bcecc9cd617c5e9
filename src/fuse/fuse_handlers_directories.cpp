#include <sys/stat.h>

#include <cstdint>
#include <cstring>
#include <string_view>

#include "filesystem/directory_writer.hpp"
#include "fuse/fuse_handlers.hpp"
#include "fuse_protocol/dirent_packer.hpp"
#include "kernel/fuse.hpp"

namespace vmthaw::fuse_handlers {
namespace {

class WireDirectory final : public DirectoryWriter {
public:
    WireDirectory(const FuseCall& call, std::span<std::byte> space) noexcept : call_(call), packer_(space) {}

    [[nodiscard]] bool add(std::string_view name, std::uint64_t ino, std::uint32_t type,
                           std::uint64_t next_offset) noexcept override {
        return packer_.add(name, {ino, next_offset, 0, type});
    }
    [[nodiscard]] bool add_entry(std::string_view name, const NodeEntry& entry,
                                 std::uint64_t next_offset) noexcept override {
        return packer_.add_plus(name, call_.wire_unasked(entry),
                                {entry.attr.ino, next_offset, 0, (entry.attr.mode & S_IFMT) >> 12U});
    }
    [[nodiscard]] std::size_t used_bytes() const noexcept { return packer_.used_bytes(); }

private:
    const FuseCall& call_;
    DirentPacker packer_;
};

// Whether a file uses DAX may be Python's to say, and a file system lists its names under a lock: asked afterwards.
void ask_about_dax(const FuseCall& call, std::span<std::byte> listed) noexcept {
    FuseDirentPlus head;
    for (std::size_t at = 0; at + sizeof head <= listed.size();) {
        std::memcpy(&head, listed.data() + at, sizeof head);
        const std::string_view name(reinterpret_cast<const char*>(listed.data() + at + sizeof head),
                                    head.dirent.namelen);
        if (head.entry_out.nodeid != 0) {
            head.entry_out.attr = call.wire(head.entry_out.nodeid, head.entry_out.attr, name);
            std::memcpy(listed.data() + at, &head, sizeof head);
        }
        at += (sizeof head + head.dirent.namelen + 7) / 8 * 8;
    }
}

int do_readdir(FuseCall& call, bool plus) noexcept {
    const auto request = call.in.take<FuseReadIn>("read");
    if (call.in.error() != 0) {
        return call.in.error();
    }
    const std::span<std::byte> space = call.out.next(request.size);
    WireDirectory directory(call, space);
    const int error = call.file_system.readdir(call.caller(), call.node(), request.fh, request.offset, plus, directory);
    // An error behind entries would lose them, and the look-ups that they count: it comes with the next call.
    if (error != 0 && directory.used_bytes() == 0) {
        return error;
    }
    if (plus) {
        ask_about_dax(call, space.first(directory.used_bytes()));
    }
    call.out.advance(directory.used_bytes());
    return 0;
}

}  // namespace

int opendir(FuseCall& call) noexcept {
    const auto request = call.in.take<FuseOpenIn>("open");
    if (call.in.error() != 0) {
        return call.in.error();
    }
    OpenedFile opened;
    const int error = call.file_system.opendir(call.caller(), call.node(), request, opened);
    return call.reply(error, FuseOpenOut{opened.handle, opened.open_flags, 0});
}

int readdir(FuseCall& call) noexcept { return do_readdir(call, false); }

int readdirplus(FuseCall& call) noexcept { return do_readdir(call, true); }

int releasedir(FuseCall& call) noexcept {
    const auto request = call.in.take<FuseReleaseIn>("release");
    return call.in.error() != 0 ? call.in.error() : call.file_system.releasedir(call.caller(), call.node(), request.fh);
}

int fsyncdir(FuseCall& call) noexcept {
    const auto request = call.in.take<FuseFsyncIn>("fsync");
    if (call.in.error() != 0) {
        return call.in.error();
    }
    return call.file_system.fsyncdir(call.caller(), call.node(), request.fh,
                                     (request.fsync_flags & kFuseFsyncDataOnly) != 0);
}

}  // namespace vmthaw::fuse_handlers
