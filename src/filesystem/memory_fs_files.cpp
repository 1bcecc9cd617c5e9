#include <fcntl.h>
#include <linux/falloc.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "filesystem/memory_fs.hpp"
#include "filesystem/realtime.hpp"
#include "kernel/fuse.hpp"

namespace vmthaw {
namespace {

constexpr std::size_t kCopyPart_bytes = 128U << 10U;
// One request copies no more, so that the others get their turn; the client asks for the rest.
constexpr std::uint64_t kCopyMost_bytes = 16U << 20U;
constexpr std::int64_t kDay_s = 24L * 60 * 60;

bool is_before(const timespec& one, const timespec& other) noexcept {
    return one.tv_sec != other.tv_sec ? one.tv_sec < other.tv_sec : one.tv_nsec < other.tv_nsec;
}

// As mount option relatime: a first reading after a change, or after a day.
void note_reading(MemoryNode& node, std::uint32_t flags) noexcept {
    const timespec now = realtime_now();
    const bool is_due = !is_before(node.mtime, node.atime) || !is_before(node.ctime, node.atime) ||
                        now.tv_sec - node.atime.tv_sec >= kDay_s;
    if ((flags & O_NOATIME) == 0 && is_due) {
        node.atime = now;
    }
}

}  // namespace

int MemoryFs::open_regular(MemoryNode& node, std::uint32_t flags, OpenedFile& opened) {
    if (!node.is_regular()) {
        if (S_ISLNK(node.mode)) {
            return ELOOP;
        }
        return node.is_directory() ? EISDIR : ENXIO;
    }
    const int error = open_handle(node, flags, false, opened);
    if (error == 0 && (flags & O_TRUNC) != 0 && node.data.size() != 0) {
        const int truncated = change_data(node, [](MemoryData& data) { return data.resize(0); });
        node.touch_data(realtime_now());
        if (truncated != 0) {
            static_cast<void>(close_handle(node.id, opened.handle, false));
        }
        return truncated;
    }
    return error;
}

int MemoryFs::open(const FuseCaller& /*caller*/, std::uint64_t node, const FuseOpenIn& request,
                   OpenedFile& opened) noexcept {
    return locked([&] {
        MemoryNode* found = find(node);
        if (found == nullptr) {
            return ESTALE;
        }
        const int error = open_regular(*found, request.flags, opened);
        if (error == 0 && (request.flags & O_TRUNC) != 0 && (request.open_flags & kFuseOpenKillSuidgid) != 0) {
            found->drop_set_id_bits();
        }
        opened.open_flags = kFopenKeepCache;
        return error;
    });
}

int MemoryFs::read(const FuseCaller& /*caller*/, std::uint64_t node, const FuseReadIn& request,
                   ReadAnswer& answer) noexcept {
    return locked([&] {
        MemoryNode* found = nullptr;
        std::uint32_t flags = 0;
        if (const int error = find_open(node, request.fh, false, found, &flags); error != 0) {
            return error;
        }
        note_reading(*found, flags);
        return found->data.read(request.offset, answer.buffer, answer.length_bytes);
    });
}

int MemoryFs::write(const FuseCaller& /*caller*/, std::uint64_t node, const FuseWriteIn& request,
                    std::span<const std::byte> data, std::uint32_t& written_bytes) noexcept {
    return locked([&] {
        MemoryNode* found = nullptr;
        std::uint32_t flags = 0;
        if (const int error = find_open(node, request.fh, true, found, &flags); error != 0) {
            return error;
        }
        // A client that does not cache knows an old end only.
        const bool appends = (flags & O_APPEND) != 0 && (request.write_flags & kFuseWriteCache) == 0;
        const std::uint64_t offset = appends ? found->data.size() : request.offset;
        if (data.size() > static_cast<std::uint64_t>(INT64_MAX) - offset) {
            return EFBIG;
        }
        const std::uint64_t free = free_bytes();
        const int error = change_data(*found, [&](MemoryData& bytes) { return bytes.write(offset, data, free); });
        if (error == 0 && !data.empty()) {
            found->touch_data(realtime_now());
            if ((request.write_flags & kFuseWriteKillSuidgid) != 0) {
                found->drop_set_id_bits();
            }
        }
        written_bytes = static_cast<std::uint32_t>(data.size());
        return error;
    });
}

int MemoryFs::flush(const FuseCaller& /*caller*/, std::uint64_t node, const FuseFlushIn& request) noexcept {
    return locked([&] {
        MemoryNode* found = nullptr;
        return find_open(node, request.fh, false, found);
    });
}

int MemoryFs::release(const FuseCaller& /*caller*/, std::uint64_t node, const FuseReleaseIn& request) noexcept {
    return locked([&] { return close_handle(node, request.fh, false); });
}

int MemoryFs::fsync(const FuseCaller& /*caller*/, std::uint64_t node, std::uint64_t handle,
                    bool /*data_only*/) noexcept {
    return locked([&] {
        MemoryNode* found = nullptr;
        return find_open(node, handle, false, found);
    });
}

int MemoryFs::fallocate(const FuseCaller& /*caller*/, std::uint64_t node, const FuseFallocateIn& request) noexcept {
    constexpr std::uint32_t keep = FALLOC_FL_KEEP_SIZE;
    constexpr std::uint32_t punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    const std::uint32_t kind = request.mode & ~std::uint32_t{FALLOC_FL_ZERO_RANGE};
    if (kind != 0 && kind != keep && request.mode != punch) {
        return EOPNOTSUPP;
    }
    return locked([&] {
        MemoryNode* found = nullptr;
        if (const int error = find_open(node, request.fh, true, found); error != 0) {
            return error;
        }
        const bool only_adds = request.mode == 0 || request.mode == keep;
        const std::uint64_t end = request.offset + request.length;
        const std::uint64_t free = free_bytes();
        const int error = change_data(*found, [&](MemoryData& data) {
            int failed = only_adds ? data.allocate(request.offset, request.length, free)
                                   : data.punch(request.offset, request.length);
            if (failed == 0 && (request.mode & keep) == 0 && end > data.size()) {
                failed = data.resize(end);
            }
            return failed;
        });
        if (error == 0) {
            found->touch_data(realtime_now());
        }
        return error;
    });
}

int MemoryFs::lseek(const FuseCaller& /*caller*/, std::uint64_t node, const FuseLseekIn& request,
                    std::uint64_t& offset_bytes) noexcept {
    if (request.whence != SEEK_DATA && request.whence != SEEK_HOLE) {
        return EINVAL;  // the rest is the client's own affair
    }
    return locked([&] {
        MemoryNode* found = nullptr;
        if (const int error = find_open(node, request.fh, false, found); error != 0) {
            return error;
        }
        return found->data.seek(request.offset, request.whence == SEEK_HOLE, offset_bytes);
    });
}

int MemoryFs::copy_file_range(const FuseCaller& /*caller*/, std::uint64_t node, const FuseCopyFileRangeIn& request,
                              std::uint64_t& copied_bytes) noexcept {
    return locked([&] {
        MemoryNode* from = nullptr;
        MemoryNode* to = nullptr;
        if (const int error = find_open(node, request.fh_in, false, from); error != 0) {
            return error;
        }
        if (const int error = find_open(request.nodeid_out, request.fh_out, true, to); error != 0) {
            return error;
        }
        const std::uint64_t size = from->data.size();
        const std::uint64_t length = std::min({request.len, kCopyMost_bytes, size - std::min(size, request.off_in)});
        const std::uint64_t distance =
            std::max(request.off_in, request.off_out) - std::min(request.off_in, request.off_out);
        if (from == to && distance < length) {
            return EINVAL;
        }
        std::vector<std::byte> part(static_cast<std::size_t>(std::min<std::uint64_t>(length, kCopyPart_bytes)));
        int error = 0;
        while (error == 0 && copied_bytes < length) {
            std::size_t count = 0;
            const auto wanted = static_cast<std::size_t>(std::min<std::uint64_t>(part.size(), length - copied_bytes));
            error = from->data.read(request.off_in + copied_bytes, std::span(part).first(wanted), count);
            if (error == 0) {
                const std::uint64_t free = free_bytes();
                error = change_data(*to, [&](MemoryData& data) {
                    return data.write(request.off_out + copied_bytes, std::span(part).first(count), free);
                });
            }
            copied_bytes += error == 0 ? count : 0;
        }
        if (copied_bytes != 0) {
            to->touch_data(realtime_now());
            to->drop_set_id_bits();
            return 0;
        }
        return error;
    });
}

int MemoryFs::dax_map(std::uint64_t node, std::uint64_t handle, std::uint64_t offset_bytes, std::uint64_t length_bytes,
                      std::uint32_t prot, Lease& lease) noexcept {
    return locked([&] {
        MemoryNode* found = find(node);
        if (handle != kFuseNoHandle) {
            if (const int error = find_open(node, handle, (prot & kDaxWrite) != 0, found); error != 0) {
                return error;
            }
        }
        if (found == nullptr) {
            return ESTALE;
        }
        if (!found->is_regular()) {
            return found->is_directory() ? EISDIR : EINVAL;
        }
        int fd = -1;
        if (const int error = change_data(*found, [&fd](MemoryData& data) { return data.descriptor(fd); });
            error != 0) {
            return error;
        }
        if (const std::uint64_t size = found->data.size(); (prot & kDaxWrite) != 0 && offset_bytes < size) {
            // What the guest writes there is not seen: it is taken, and counted, now.
            const std::uint64_t length = std::min(length_bytes, size - offset_bytes);
            const std::uint64_t free = free_bytes();
            if (const int error =
                    change_data(*found, [&](MemoryData& data) { return data.allocate(offset_bytes, length, free); });
                error != 0) {
                return error;
            }
        }
        leases_.emplace(next_lease_, node);
        lease = {fd, offset_bytes, length_bytes, next_lease_++};
        ++found->holders;
        return 0;
    });
}

int MemoryFs::dax_unmap(const Lease& lease) noexcept {
    return locked([&] {
        const auto found = leases_.find(lease.token);
        if (found == leases_.end()) {
            return EINVAL;
        }
        MemoryNode& node = *nodes_.find(found->second)->second;
        leases_.erase(found);
        --node.holders;
        let_go(node);
        return 0;
    });
}

}  // namespace vmthaw
