#include <cstdint>
#include <cstring>

#include "fuse/fuse_dispatcher.hpp"
#include "fuse_protocol/fuse_replies.hpp"
#include "kernel/fuse.hpp"

namespace vmthaw {
namespace {

template <typename Structure>
bool read_at(std::span<const std::byte> bytes, std::size_t at, Structure& structure) noexcept {
    if (at > bytes.size() || bytes.size() - at < sizeof structure) {
        return false;
    }
    std::memcpy(&structure, bytes.data() + at, sizeof structure);
    return true;
}

// What one reply gave to the client.
class Returns {
public:
    Returns(FileSystem& file_system, const FuseInHeader& header, std::span<const std::byte> body) noexcept
        : file_system_(file_system), header_(header), body_(body) {}

    void give_back() noexcept {
        switch (static_cast<FuseOpcode>(header_.opcode)) {
            case FuseOpcode::lookup:
            case FuseOpcode::symlink:
            case FuseOpcode::mknod:
            case FuseOpcode::mkdir:
            case FuseOpcode::link:
                entry_at(0);
                return;
            case FuseOpcode::create:
            case FuseOpcode::tmpfile:
                if (FuseEntryOut entry; read_at(body_, 0, entry)) {
                    handle_at(sizeof entry, entry.nodeid);
                }
                entry_at(0);
                return;
            case FuseOpcode::open:
            case FuseOpcode::opendir:
                handle_at(0, header_.nodeid);
                return;
            case FuseOpcode::readdirplus:
                entries();
                return;
            default:
                return;
        }
    }

private:
    void entry_at(std::size_t at) noexcept {
        if (FuseEntryOut entry; read_at(body_, at, entry) && entry.nodeid != 0) {
            file_system_.forget(entry.nodeid, 1);
        }
    }
    void handle_at(std::size_t at, std::uint64_t node) noexcept {
        FuseOpenOut opened;
        if (!read_at(body_, at, opened)) {
            return;
        }
        const FuseCaller caller{header_.unique, header_.uid, header_.gid, header_.pid};
        if (header_.opcode == static_cast<std::uint32_t>(FuseOpcode::opendir)) {
            static_cast<void>(file_system_.releasedir(caller, node, opened.fh));
        } else {
            static_cast<void>(file_system_.release(caller, node, FuseReleaseIn{opened.fh, 0, 0, 0}));
        }
    }
    void entries() noexcept {
        FuseDirentPlus record;
        for (std::size_t at = 0; read_at(body_, at, record);) {
            entry_at(at);
            at += (sizeof record + std::size_t{record.dirent.namelen} + 7) / 8 * 8;
        }
    }

    FileSystem& file_system_;
    const FuseInHeader& header_;
    std::span<const std::byte> body_;
};

}  // namespace

void FuseDispatcher::undelivered(std::span<const std::byte> request, std::span<const std::byte> reply) noexcept {
    const RequestReader in(request);
    FuseOutHeader header;
    if (!in.has_header() || !read_at(reply, 0, header) || header.error != 0 || !gate_.enter()) {
        return;  // after the client's end nothing is held anyway
    }
    Returns(*file_system_, in.header(), reply.subspan(sizeof header)).give_back();
    gate_.leave();
}

}  // namespace vmthaw
