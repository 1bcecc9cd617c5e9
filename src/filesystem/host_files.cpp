#include "filesystem/host_files.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "base/error.hpp"

namespace vmthaw {
namespace {

void demand_regular(int fd, const std::string& what) {
    struct stat found{};
    check_errno(::fstat(fd, &found), "fstat");
    if (!S_ISREG(found.st_mode)) {
        throw ArgumentError(what + " is no regular file: only these and memfds can be mapped into a guest");
    }
}

}  // namespace

std::uint64_t HostFiles::add(const std::string& path, bool read_only) {
    UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
    if (!fd) {
        const int saved = errno;
        throw SystemError(saved, "open(" + path + ")");
    }
    demand_regular(fd.get(), path);
    return add_file({std::move(fd), {}, path, read_only});
}

std::uint64_t HostFiles::add_descriptor(UniqueFd fd) {
    demand_regular(fd.get(), "descriptor " + std::to_string(fd.get()));
    return add_file({std::move(fd), {}, {}, false});
}

std::uint64_t HostFiles::add_file(File file) {
    const std::lock_guard lock(mutex_);
    files_.emplace(++last_node_, std::move(file));
    return last_node_;
}

int HostFiles::remove(std::uint64_t node) noexcept {
    const std::lock_guard lock(mutex_);
    const auto found = files_.find(node);
    if (found == files_.end() || found->second.removed) {
        return ENOENT;
    }
    found->second.removed = true;
    if (found->second.leases == 0) {
        files_.erase(found);
    }
    return 0;
}

int HostFiles::dax_map(std::uint64_t node, std::uint64_t /*handle*/, std::uint64_t offset_bytes,
                       std::uint64_t length_bytes, std::uint32_t prot, Lease& lease) noexcept {
    const std::lock_guard lock(mutex_);
    const auto found = files_.find(node);
    if (found == files_.end() || found->second.removed) {
        return ENOENT;
    }
    File& file = found->second;
    const bool reopens = (prot & kDaxWrite) != 0 && !file.path.empty();
    if (reopens && file.read_only) {
        return EROFS;
    }
    if (reopens && !file.writing) {
        // The same file, whatever the path names by now.
        std::array<char, 32> same{};
        std::snprintf(same.data(), same.size(), "/proc/self/fd/%d", file.reading.get());
        file.writing.reset(::open(same.data(), O_RDWR | O_CLOEXEC));
        if (!file.writing) {
            return errno;
        }
    }
    ++file.leases;
    ++leases_;
    lease = {reopens ? file.writing.get() : file.reading.get(), offset_bytes, length_bytes, node};
    return 0;
}

int HostFiles::dax_unmap(const Lease& lease) noexcept {
    const std::lock_guard lock(mutex_);
    const auto found = files_.find(lease.token);
    if (found == files_.end() || found->second.leases == 0) {
        return EINVAL;
    }
    --leases_;
    if (--found->second.leases == 0 && found->second.removed) {
        files_.erase(found);
    }
    return 0;
}

std::size_t HostFiles::leases() const {
    const std::lock_guard lock(mutex_);
    return leases_;
}

}  // namespace vmthaw
