#include <sys/stat.h>

#include <cerrno>
#include <memory>
#include <new>
#include <utility>

#include "base/clock.hpp"
#include "bindings/python_fs.hpp"
#include "bindings/python_fs_asking.hpp"
#include "kernel/fuse.hpp"

// GIL and locking: as python_fs.cpp. A writer is called without a lock.
namespace vmthaw::bindings {
namespace {

// What a listing says of its files goes to the client for no longer than the client itself may keep it by default.
constexpr std::uint64_t kFreshListing_ns = kSecond_ns;

}  // namespace

int PythonFs::opendir(const FuseCaller& caller, std::uint64_t node, const FuseOpenIn& /*request*/,
                      OpenedFile& opened) noexcept {
    std::string path;
    int error = path_of(node, kFuseNoHandle, path);
    if (error == 0) {
        error = tell("opendir", caller, path);
    }
    return error != 0 ? error : add_handle(node, true, opened.handle);
}

// NOLINTNEXTLINE(bugprone-exception-escape): ask() catches what its lambda throws
int PythonFs::list(const FuseCaller& caller, const std::string& path, std::uint64_t handle) noexcept {
    std::shared_ptr<Listing> listing;
    try {
        listing = std::make_shared<Listing>();
    } catch (...) {
        return ENOMEM;
    }
    listing->changes = changes_.load();
    listing->taken_ns = monotonic_ns();
    const auto use = [&](const py::handle& answer) {
        for (const py::handle item : py::reinterpret_borrow<py::list>(answer)) {
            const auto fields = py::reinterpret_borrow<py::tuple>(item);
            Listed listed{fs_bytes(fields[0]), fields[1].cast<std::uint32_t>(), {}};
            if (!fields[2].is_none()) {
                listed.attr = attributes_from(fields[2], 0);
            }
            listing->entries.push_back(std::move(listed));
        }
    };
    if (const int error = ask("readdir", caller, use, path); error != 0) {
        return error;
    }
    const std::lock_guard lock(mutex_);
    const auto open = handles_.find(handle);
    if (open == handles_.end()) {
        return EBADF;
    }
    open->second.listing = std::move(listing);
    return 0;
}

bool PythonFs::is_fresh(const Listing& listing) const noexcept {
    return changes_.load() == listing.changes && monotonic_ns() - listing.taken_ns <= kFreshListing_ns;
}

bool PythonFs::add_entry(std::uint64_t directory, const Listed& listed, bool fresh, std::uint64_t next_offset,
                         DirectoryWriter& writer) noexcept {
    NodeEntry entry;  // without a node: the client looks it up by itself
    entry.attr.ino = UINT32_MAX;
    entry.attr.mode = listed.type << 12U;
    if (fresh && listed.attr && nodes_.give(directory, listed.name, entry.node) == 0) {
        entry.generation = 1;
        entry.attr = *listed.attr;
        entry.attr.ino = entry.attr.ino != 0 ? entry.attr.ino : entry.node;
    }
    const bool fits = writer.add_entry(listed.name, entry, next_offset);
    if (!fits && entry.node != 0) {
        nodes_.forget(entry.node, 1);
    }
    return fits;
}

int PythonFs::readdir(const FuseCaller& caller, std::uint64_t node, std::uint64_t handle, std::uint64_t offset,
                      bool plus, DirectoryWriter& writer) noexcept {
    std::string path;
    if (const int error = check_handle(node, handle, true); error != 0) {
        return error;
    }
    if (const int error = nodes_.path_of(node, path); error != 0) {
        return error;
    }
    if (offset == 0) {
        // The whole list at once: what comes and goes while somebody reads moves nothing.
        if (const int error = list(caller, path, handle); error != 0) {
            return error;
        }
    }
    std::shared_ptr<const Listing> listing;
    {
        const std::lock_guard lock(mutex_);
        const auto open = handles_.find(handle);
        if (open == handles_.end()) {
            return EBADF;
        }
        listing = open->second.listing;
    }
    if (listing == nullptr) {
        return EINVAL;  // an offset that was never given
    }
    for (std::uint64_t at = offset; at < listing->entries.size(); ++at) {
        const Listed& listed = listing->entries[at];
        if (plus) {
            if (!add_entry(node, listed, is_fresh(*listing), at + 1, writer)) {
                return 0;
            }
            continue;
        }
        // No ino is known without asking for each; 0 would hide the name from readdir(3).
        const std::uint64_t ino = listed.attr && listed.attr->ino != 0 ? listed.attr->ino : UINT32_MAX;
        if (!writer.add(listed.name, ino, listed.type, at + 1)) {
            return 0;
        }
    }
    return 0;
}

int PythonFs::releasedir(const FuseCaller& /*caller*/, std::uint64_t node, std::uint64_t handle) noexcept {
    const int error = check_handle(node, handle, true);
    if (error == 0) {
        drop_handle(handle);
    }
    return error;
}

}  // namespace vmthaw::bindings
