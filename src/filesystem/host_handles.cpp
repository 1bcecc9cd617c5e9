#include "filesystem/host_handles.hpp"

#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <exception>
#include <utility>

namespace vmthaw {
namespace {

constexpr std::size_t kDirectoryBytes = 32768;

// struct linux_dirent64, of which the name is what is left.
struct DirentHead {
    std::uint64_t ino;
    std::uint64_t offset;
    std::uint16_t length;
    std::uint8_t type;
};
constexpr std::size_t kNameAt = 19;
static_assert(offsetof(DirentHead, type) == kNameAt - 1);

}  // namespace

int HostDirectoryReader::next(int fd, std::uint64_t offset, HostDirent& entry) noexcept {
    if (offset != offset_ || offset == 0) {
        if (::lseek(fd, static_cast<off_t>(offset), SEEK_SET) < 0) {
            return errno;
        }
        filled_ = position_ = 0;
        offset_ = offset;
    }
    if (position_ == filled_) {
        try {
            buffer_.resize(kDirectoryBytes);
        } catch (const std::exception&) {
            return ENOMEM;
        }
        const long got = ::syscall(SYS_getdents64, fd, buffer_.data(), buffer_.size());
        if (got < 0) {
            return errno;
        }
        filled_ = static_cast<std::size_t>(got);
        position_ = 0;
        if (got == 0) {
            entry = {};
            return 0;
        }
    }
    DirentHead head{};
    std::memcpy(&head, buffer_.data() + position_, kNameAt);
    entry.name = reinterpret_cast<const char*>(buffer_.data() + position_ + kNameAt);
    entry.ino = head.ino;
    entry.next_offset = head.offset;
    entry.type = head.type;
    position_ += head.length;
    offset_ = head.offset;
    return 0;
}

int HostHandles::add(UniqueFd fd, std::uint64_t node, bool is_directory, std::uint64_t& handle) noexcept {
    try {
        auto file = std::make_shared<HostHandle>();
        file->fd = std::make_shared<const UniqueFd>(std::move(fd));
        file->node = node;
        file->is_directory = is_directory;
        const std::lock_guard lock(mutex_);
        handle = next_++;
        files_.emplace(handle, std::move(file));
        return 0;
    } catch (const std::exception&) {
        return ENOMEM;
    }
}

std::shared_ptr<HostHandle> HostHandles::find(std::uint64_t handle) const noexcept {
    const std::lock_guard lock(mutex_);
    const auto found = files_.find(handle);
    return found == files_.end() ? nullptr : found->second;
}

std::shared_ptr<HostHandle> HostHandles::take(std::uint64_t handle) noexcept {
    const std::lock_guard lock(mutex_);
    const auto found = files_.find(handle);
    if (found == files_.end()) {
        return nullptr;
    }
    std::shared_ptr<HostHandle> file = std::move(found->second);
    files_.erase(found);
    return file;
}

std::vector<std::shared_ptr<HostHandle>> HostHandles::take_all() {
    std::vector<std::shared_ptr<HostHandle>> all;
    const std::lock_guard lock(mutex_);
    all.reserve(files_.size());
    for (auto& [handle, file] : files_) {
        all.push_back(std::move(file));
    }
    files_.clear();
    return all;
}

std::size_t HostHandles::count() const noexcept {
    const std::lock_guard lock(mutex_);
    return files_.size();
}

}  // namespace vmthaw
