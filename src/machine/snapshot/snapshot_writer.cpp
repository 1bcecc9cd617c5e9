#include "machine/snapshot/snapshot_writer.hpp"

#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

#include "base/error.hpp"
#include "machine/snapshot/memory_file.hpp"

namespace vmthaw {
namespace {

std::string absolute(const std::string& directory) {
    std::error_code error;
    const std::filesystem::path path = std::filesystem::canonical(directory, error);
    if (error) {
        throw SystemError(error.value(), "finding the directory " + directory);
    }
    return path.string();
}

SnapshotBase base_of_diff(const Machine& machine) {
    std::optional<SnapshotBase> base = machine.base();
    if (!base) {
        throw StateError(
            "a diff needs a base: save a full snapshot of this machine first, or restore it with track_dirty=True");
    }
    if (base->depth >= kMostDepth) {
        throw StateError("the last snapshot lies over " + std::to_string(kMostDepth) +
                         " others already; save a full one");
    }
    return *std::move(base);
}

}  // namespace

SnapshotIdentity new_snapshot_identity() {
    SnapshotIdentity identity;
    // The system call itself: the C library of the oldest systems has no function for it.
    if (::syscall(SYS_getrandom, identity.id.data(), identity.id.size(), 0) != static_cast<long>(identity.id.size())) {
        const int saved = errno;
        throw SystemError(saved, "getrandom");
    }
    return identity;
}

SnapshotWriter::SnapshotWriter(std::shared_ptr<Machine> machine, std::string directory,
                               const payload::Workload& workload, bool diff)
    : machine_(std::move(machine)), directory_(std::move(directory)) {
    machine_->begin_saving();  // first: from now on nobody else changes the base
    saving_ = true;
    try {
        if (diff) {
            base_ = base_of_diff(*machine_);
        }
        folder_ = lock_snapshot_directory(directory_);
        absolute_directory_ = absolute(directory_);
        state_.identity = new_snapshot_identity();
        state_.workload = workload;
        memory_file_ = std::make_unique<SnapshotFile>(directory_ + "/" + (diff ? kDiffFileName : kMemoryFileName));
        state_file_ = std::make_unique<SnapshotFile>(directory_ + "/" + kStateFileName);
    } catch (...) {
        clear();
        throw;
    }
}

void SnapshotWriter::clear() noexcept {
    if (taken_) {
        machine_->dirty().put_back(*taken_);
        taken_.reset();
    }
    memory_file_.reset();
    state_file_.reset();
    folder_.reset();
    if (std::exchange(saving_, false)) {
        machine_->end_saving();
    }
}

void SnapshotWriter::abandon() noexcept {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (lock) {
        clear();
    }
}

// Relative, so that directories may move together; the base may lie on another file system all the same.
std::string SnapshotWriter::path_of(const SnapshotBase& base) const {
    const std::filesystem::path place = base.directory;
    const std::filesystem::path relative = place.lexically_relative(absolute_directory_);
    std::string path = (relative.empty() ? place : relative).string();
    if (path.size() > kMostBasePath) {
        throw SystemError(ENAMETOOLONG, "naming the base " + place.string());
    }
    return path;
}

void SnapshotWriter::write(const Machine::Hold& hold, const std::atomic<bool>& cancelled) {
    const std::lock_guard lock(mutex_);
    if (!saving_ || taken_) {
        throw StateError("the snapshot was written already, or given up");
    }
    try {
        write_files(hold, cancelled);
    } catch (...) {
        clear();
        throw;
    }
}

void SnapshotWriter::write_files(const Machine::Hold& hold, const std::atomic<bool>& cancelled) {
    MachineState captured = machine_->capture(hold);  // before the memory: completing an instruction may write there
    captured.identity = state_.identity;
    captured.workload = state_.workload;
    state_ = std::move(captured);
    const GuestMemory& memory = *machine_->memory();
    machine_->dirty().start();
    // Before the pages are read: what the host writes meanwhile is the next diff's.
    const PageBits& taken = taken_.emplace(machine_->dirty().take());
    memory_file_->resize(memory.size_bytes());
    MemoryContent content;
    if (base_) {
        state_.depth = base_->depth + 1;
        state_.base = base_->identity;
        state_.base_path = path_of(*base_);
        state_.changed_pages = taken;
        content = write_diff(memory, taken, memory_file_->fd(), memory_file_->path(), cancelled);
    } else {
        content = write_memory(memory, memory_file_->fd(), 0, memory_file_->path(), cancelled);
    }
    state_.memory_data_pages = content.data_pages;
    state_.memory_fingerprint = content.fingerprint;
}

void SnapshotWriter::commit() {
    const std::lock_guard lock(mutex_);
    if (!taken_) {
        throw StateError("there is nothing to commit: the snapshot was not written, or is committed");
    }
    try {
        commit_files();
    } catch (...) {
        clear();
        throw;
    }
    clear();
}

void SnapshotWriter::commit_files() {
    const EncodedState encoded = encode_state(state_);
    state_file_->write(encoded.bytes);
    memory_file_->commit();
    sync_directory(folder_.get(), directory_);
    state_file_->commit();
    sync_directory(folder_.get(), directory_);
    state_.identity.checksum = encoded.checksum;
    machine_->set_base({state_.identity, state_.depth, absolute_directory_});
    taken_.reset();
}

}  // namespace vmthaw
