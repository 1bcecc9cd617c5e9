#include "source/compressed/partial_file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>

#include "base/error.hpp"
#include "base/write_all.hpp"

namespace vmthaw {
namespace {

std::string partial_name(const std::string& path) {
    static std::atomic<std::uint64_t> last{0};
    return path + "." + std::to_string(::getpid()) + "-" + std::to_string(++last) + ".partial";
}

}  // namespace

PartialFile::PartialFile(const std::string& path) : path_(path), partial_path_(partial_name(path)) {
    int fd = -1;
    for (;;) {
        fd = ::open(partial_path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (fd < 0 && errno == EEXIST) {
            partial_path_ = partial_name(path);  // of a process that had our number and was killed
        } else if (fd >= 0 || errno != EINTR) {
            break;
        }
    }
    fd_.reset(check_errno(fd, ("open(" + partial_path_ + ")").c_str()));
}

PartialFile::~PartialFile() {
    if (!finished_ && !fork_guard_.inherited()) {
        ::unlink(partial_path_.c_str());
    }
}

void PartialFile::append(std::span<const std::byte> bytes) {
    write_all(fd_.get(), bytes.data(), bytes.size(), size_, partial_path_);
    size_ += bytes.size();
}

void PartialFile::finish(Flush flush) {
    if (flush == Flush::first) {
        check_errno(::fsync(fd_.get()), ("fsync(" + partial_path_ + ")").c_str());
    }
    check_errno(std::rename(partial_path_.c_str(), path_.c_str()), ("rename(" + path_ + ")").c_str());
    finished_ = true;
}

}  // namespace vmthaw
