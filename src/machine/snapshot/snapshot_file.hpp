#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "base/fork_guard.hpp"
#include "base/unique_fd.hpp"
#include "machine/snapshot/machine_state.hpp"

namespace vmthaw {

// A snapshot is a directory with state.bin and a memory file: memory.bin (Firecracker's layout) of a full snapshot,
// memory.diff (Firecracker's diff) of a diff. state.bin comes last: without it there is no snapshot.
inline constexpr const char* kMemoryFileName = "memory.bin";
inline constexpr const char* kDiffFileName = "memory.diff";
inline constexpr const char* kStateFileName = "state.bin";

// A file under a temporary name until commit(), which syncs and renames it. What an earlier save left under that name
// is removed: the caller holds the directory's lock. A forked child removes nothing. Throws SystemError.
class SnapshotFile {
public:
    explicit SnapshotFile(std::string path);  // in the end
    ~SnapshotFile();
    SnapshotFile(const SnapshotFile&) = delete;
    SnapshotFile& operator=(const SnapshotFile&) = delete;

    [[nodiscard]] int fd() const noexcept { return fd_.get(); }
    [[nodiscard]] const std::string& path() const noexcept { return temporary_; }
    void resize(std::uint64_t size_bytes) const;
    void write(std::span<const std::byte> bytes) const;
    void commit();

private:
    std::string path_;
    std::string temporary_;
    ForkGuard guard_;
    UniqueFd fd_;
    bool committed_ = false;
};

// A directory that exists, locked for saving until the descriptor closes. Throws SystemError: EEXIST when it holds a
// snapshot, EWOULDBLOCK when somebody else saves there.
[[nodiscard]] UniqueFd lock_snapshot_directory(const std::string& directory);
void sync_directory(int fd, const std::string& directory);

// Reads and checks state.bin. Throws SystemError, Error(SnapshotError).
[[nodiscard]] MachineState load_state(const std::string& directory);

}  // namespace vmthaw
