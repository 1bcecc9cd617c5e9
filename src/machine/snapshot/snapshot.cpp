#include "machine/snapshot/snapshot.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <span>
#include <vector>

#include "base/error.hpp"
#include "base/unique_fd.hpp"
#include "machine/snapshot/memory_file.hpp"

namespace vmthaw {
namespace {

[[noreturn]] void fail(const std::string& operation, const std::string& remedy = {}) {
    const int saved = errno;
    throw SystemError(saved, operation, remedy);
}

// A name that is taken away again unless it was renamed.
class TemporaryName {
public:
    explicit TemporaryName(std::string path) : path_(std::move(path)) { ::unlink(path_.c_str()); }
    ~TemporaryName() {
        if (!path_.empty()) {
            ::unlink(path_.c_str());
        }
    }
    TemporaryName(const TemporaryName&) = delete;
    TemporaryName& operator=(const TemporaryName&) = delete;

    [[nodiscard]] const std::string& path() const noexcept { return path_; }
    void rename_to(const std::string& path) {
        if (::rename(path_.c_str(), path.c_str()) != 0) {
            fail("renaming " + path_ + " to " + path);
        }
        path_.clear();
    }

private:
    std::string path_;
};

void write_state_file(const std::string& path, std::span<const std::byte> bytes) {
    const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!fd) {
        fail("creating " + path);
    }
    while (!bytes.empty()) {
        const ssize_t written = ::write(fd.get(), bytes.data(), bytes.size());
        if (written < 0) {
            if (errno == EINTR) {
                continue;
            }
            fail("writing " + path);
        }
        bytes = bytes.subspan(static_cast<std::size_t>(written));
    }
    if (::fsync(fd.get()) != 0) {
        fail("fsync " + path);
    }
}

}  // namespace

void save_snapshot(Machine& machine, const std::string& directory, const payload::Workload& workload,
                   const std::atomic<bool>& cancelled) {
    const UniqueFd folder(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!folder) {
        fail("opening the directory " + directory);
    }
    // Held until the descriptor closes: two that save here would mix their files.
    if (::flock(folder.get(), LOCK_EX | LOCK_NB) != 0) {
        fail("locking " + directory, "somebody else saves a snapshot there");
    }
    const std::string memory_path = directory + "/" + kMemoryFileName;
    const std::string state_path = directory + "/" + kStateFileName;
    if (::access(state_path.c_str(), F_OK) == 0) {
        errno = EEXIST;
        fail("saving a snapshot in " + directory, "it holds one; remove it or name another directory");
    }
    const std::string ending = ".tmp-" + std::to_string(::getpid());
    TemporaryName memory_name(memory_path + ending);
    TemporaryName state_name(state_path + ending);
    MachineState state;
    const Machine::Hold hold(machine);
    state.vcpus = machine.capture_vcpus(hold);  // before the memory: completing an instruction may write there
    const MemoryContent content = write_memory_file(*machine.memory(), memory_name.path(), cancelled);
    state.memory_bytes = machine.memory()->size_bytes();
    state.memory_data_pages = content.data_pages;
    state.memory_fingerprint = content.fingerprint;
    state.busy = machine.is_busy();
    state.sequence = machine.sequence();
    state.workload = workload;
    write_state_file(state_name.path(), encode_state(state));
    memory_name.rename_to(memory_path);
    if (::fsync(folder.get()) != 0) {
        fail("fsync " + directory);
    }
    state_name.rename_to(state_path);
    if (::fsync(folder.get()) != 0) {
        fail("fsync " + directory);
    }
}

MachineState load_state(const std::string& directory) {
    const std::string path = directory + "/" + kStateFileName;
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    struct stat found{};
    if (!fd || ::fstat(fd.get(), &found) != 0) {
        fail("opening " + path, "a snapshot is a directory with state.bin and memory.bin");
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
            fail("reading " + path);
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
