#include "machine/snapshot/snapshot_file.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <utility>
#include <vector>

#include "base/error.hpp"
#include "base/write_all.hpp"

namespace vmthaw {
namespace {

[[noreturn]] void throw_errno(const std::string& operation, const std::string& remedy = {}) {
    const int saved = errno;
    throw SystemError(saved, operation, remedy);
}

}  // namespace

SnapshotFile::SnapshotFile(std::string path) : path_(std::move(path)), temporary_(path_ + ".tmp") {
    ::unlink(temporary_.c_str());
    fd_ = UniqueFd(::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!fd_) {
        throw_errno("creating " + temporary_);
    }
}

SnapshotFile::~SnapshotFile() {
    if (!committed_ && !guard_.inherited()) {
        ::unlink(temporary_.c_str());
    }
}

void SnapshotFile::resize(std::uint64_t size_bytes) const {
    if (::ftruncate(fd_.get(), static_cast<off_t>(size_bytes)) != 0) {
        throw_errno("ftruncate " + temporary_);
    }
}

void SnapshotFile::write(std::span<const std::byte> bytes) const {
    write_all(fd_.get(), bytes.data(), bytes.size(), 0, temporary_);
}

void SnapshotFile::commit() {
    if (::fsync(fd_.get()) != 0) {
        throw_errno("fsync " + temporary_);
    }
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
        throw_errno("renaming " + temporary_ + " to " + path_);
    }
    committed_ = true;
}

UniqueFd lock_snapshot_directory(const std::string& directory) {
    UniqueFd folder(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!folder) {
        throw_errno("opening the directory " + directory);
    }
    // Two that save here would mix their files.
    if (::flock(folder.get(), LOCK_EX | LOCK_NB) != 0) {
        throw_errno("locking " + directory, "somebody else saves a snapshot there");
    }
    const std::string state_path = directory + "/" + kStateFileName;
    if (::access(state_path.c_str(), F_OK) == 0) {
        errno = EEXIST;
        throw_errno("saving a snapshot in " + directory, "it holds one; remove it or name another directory");
    }
    return folder;
}

void sync_directory(int fd, const std::string& directory) {
    if (::fsync(fd) != 0) {
        throw_errno("fsync " + directory);
    }
}

MachineState load_state(const std::string& directory) {
    const std::string path = directory + "/" + kStateFileName;
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    struct stat found{};
    if (!fd || ::fstat(fd.get(), &found) != 0) {
        throw_errno("opening " + path, "a snapshot is a directory with state.bin and memory.bin or memory.diff");
    }
    if (!S_ISREG(found.st_mode) || static_cast<std::uint64_t>(found.st_size) > kMostStateBytes) {
        throw Error("the state file " + path + " is no regular file of at most 64 MiB", "SnapshotError",
                    {{"field", std::string("file size")}});
    }
    std::vector<std::byte> bytes(static_cast<std::size_t>(found.st_size));
    std::size_t have = 0;
    while (have < bytes.size()) {
        const ssize_t got = ::read(fd.get(), bytes.data() + have, bytes.size() - have);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            throw_errno("reading " + path);
        }
        if (got == 0) {
            break;
        }
        have += static_cast<std::size_t>(got);
    }
    bytes.resize(have);
    return decode_state(bytes);
}

}  // namespace vmthaw
