#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "base/unique_fd.hpp"
#include "machine/machine.hpp"
#include "machine/page_bits.hpp"
#include "machine/snapshot/machine_state.hpp"
#include "machine/snapshot/snapshot_file.hpp"

namespace vmthaw {

// Of a snapshot that is being made: random. Throws SystemError.
[[nodiscard]] SnapshotIdentity new_snapshot_identity();

// Saves one snapshot: write() while the guest stands still, commit() when it may run again. Both files are written
// under other names, synced and renamed, the state last, so that a crash at any moment leaves a whole snapshot or none.
// The directory must hold none yet (SystemError, EEXIST). A step that throws, or the end of the object, gives
// everything up: the files go, and the pages belong to the next diff. One thread at a time; throws SystemError,
// StateError.
class SnapshotWriter {
public:
    // StateError when another writer saves this machine; for a diff also when it has no base, or one that is kMostDepth
    // deep already.
    SnapshotWriter(std::shared_ptr<Machine> machine, std::string directory, const payload::Workload& workload,
                   bool diff);
    ~SnapshotWriter() { clear(); }
    SnapshotWriter(const SnapshotWriter&) = delete;
    SnapshotWriter& operator=(const SnapshotWriter&) = delete;

    // Waits for missing pages. `cancelled` ends it between two pages (SystemError, ECANCELED).
    void write(const Machine::Hold& hold, const std::atomic<bool>& cancelled);
    void commit();
    // Gives up, unless a step is under way on another thread: then that is its business. Idempotent.
    void abandon() noexcept;

    [[nodiscard]] const std::shared_ptr<Machine>& machine() const noexcept { return machine_; }
    // Of the memory file.
    [[nodiscard]] std::uint64_t pages() const noexcept { return state_.memory_data_pages; }

private:
    [[nodiscard]] std::string path_of(const SnapshotBase& base) const;
    void write_files(const Machine::Hold& hold, const std::atomic<bool>& cancelled);
    void commit_files();
    void clear() noexcept;

    std::mutex mutex_;  // held by a step
    std::shared_ptr<Machine> machine_;
    std::optional<SnapshotBase> base_;  // of a diff
    std::string directory_;
    std::string absolute_directory_;
    bool saving_ = false;  // the machine knows of it
    UniqueFd folder_;
    MachineState state_;
    std::unique_ptr<SnapshotFile> memory_file_;
    std::unique_ptr<SnapshotFile> state_file_;
    std::optional<PageBits> taken_;  // from the machine's tracker, until the snapshot is committed
};

}  // namespace vmthaw
