#include "bindings/python_fs.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "bindings/buffer_view.hpp"
#include "bindings/python_fs_asking.hpp"
#include "kernel/fuse.hpp"

// GIL and locking: registered with it held. The file system's own locks are never held while it is taken.
namespace vmthaw::bindings {

std::size_t copy_fs_bytes(const py::handle& buffer, std::span<std::byte> out) {
    const BufferView view(buffer);
    const std::size_t size = std::min(view.bytes().size(), out.size());
    if (size != 0) {
        std::memcpy(out.data(), view.bytes().data(), size);
    }
    return size;
}

// (mode, size, nlink, uid, gid, rdev, atime_ns, mtime_ns, ctime_ns, ino, blocks, block_size), all checked in Python.
FuseAttr attributes_from(const py::handle& answer, std::uint64_t node) {
    constexpr std::uint64_t second_ns = 1'000'000'000;
    const auto fields = py::reinterpret_borrow<py::tuple>(answer);
    const auto number = [&fields](std::size_t at) { return fields[at].cast<std::uint64_t>(); };
    const auto small = [&fields](std::size_t at) { return fields[at].cast<std::uint32_t>(); };
    FuseAttr attr;
    attr.mode = small(0);
    attr.size = number(1);
    attr.nlink = small(2);
    attr.uid = small(3);
    attr.gid = small(4);
    attr.rdev = small(5);
    attr.atime = number(6) / second_ns;
    attr.atimensec = static_cast<std::uint32_t>(number(6) % second_ns);
    attr.mtime = number(7) / second_ns;
    attr.mtimensec = static_cast<std::uint32_t>(number(7) % second_ns);
    attr.ctime = number(8) / second_ns;
    attr.ctimensec = static_cast<std::uint32_t>(number(8) % second_ns);
    attr.ino = number(9) != 0 ? number(9) : node;
    attr.blocks = number(10);
    attr.blksize = small(11);
    return attr;
}

int PythonFs::init(InitTerms& terms) noexcept {
    // Who reads waits for its own request then, and a signal ends the wait, and the coroutine. One that waits for a
    // page of somebody's read-ahead cannot be interrupted.
    terms.wanted &= ~kFuseAsyncRead;
    return tell("init", {});
}

void PythonFs::destroy() noexcept {
    {
        const std::lock_guard lock(mutex_);
        handles_.clear();
    }
    nodes_.clear();
    static_cast<void>(tell("destroy", {}));
}

void PythonFs::forget(std::uint64_t node, std::uint64_t count) noexcept { nodes_.forget(node, count); }

int PythonFs::interrupt(std::uint64_t unique) noexcept { return tell("interrupt", {}, unique); }

int PythonFs::path_of(std::uint64_t node, std::uint64_t handle, std::string& path) const noexcept {
    if (handle != kFuseNoHandle) {
        if (const int error = check_handle(node, handle, false); error != 0) {
            return error;
        }
    }
    return nodes_.path_of(node, path);
}

int PythonFs::add_handle(std::uint64_t node, bool directory, std::uint64_t& handle) noexcept {
    try {
        const std::lock_guard lock(mutex_);
        handles_.emplace(next_handle_, Handle{node, directory, {}});
        handle = next_handle_++;
        return 0;
    } catch (const std::bad_alloc&) {
        return ENOMEM;
    }
}

int PythonFs::check_handle(std::uint64_t node, std::uint64_t handle, bool directory) const noexcept {
    const std::lock_guard lock(mutex_);
    const auto found = handles_.find(handle);
    return found == handles_.end() || found->second.node != node || found->second.directory != directory ? EBADF : 0;
}

void PythonFs::drop_handle(std::uint64_t handle) noexcept {
    const std::lock_guard lock(mutex_);
    handles_.erase(handle);
}

std::uint64_t PythonFs::open_handles() const noexcept {
    const std::lock_guard lock(mutex_);
    return handles_.size();
}

int PythonFs::lookup(const FuseCaller& caller, std::uint64_t parent, std::string_view name, NodeEntry& entry) noexcept {
    if (name == "." || name == "..") {
        return ENOENT;  // kFuseExportSupport was not promised
    }
    return make("lookup", caller, parent, name, entry);
}

int PythonFs::getattr(const FuseCaller& caller, std::uint64_t node, std::uint64_t handle,
                      NodeAttributes& attributes) noexcept {
    std::string path;
    if (const int error = path_of(node, check_handle(node, handle, false) == 0 ? handle : kFuseNoHandle, path);
        error != 0) {
        return error;
    }
    const auto use = [&](const py::handle& answer) { attributes.attr = attributes_from(answer, node); };
    return ask("getattr", caller, use, path, handle);
}

int PythonFs::setattr(const FuseCaller& caller, std::uint64_t node, const FuseSetattrIn& change,
                      NodeAttributes& attributes) noexcept {
    constexpr std::uint64_t second_ns = 1'000'000'000;
    std::string path;
    const std::uint64_t handle = (change.valid & kFattrHandle) != 0 ? change.fh : kFuseNoHandle;
    if (const int error = path_of(node, handle, path); error != 0) {
        return error;
    }
    if (change.atime >= INT64_MAX / second_ns || change.mtime >= INT64_MAX / second_ns) {
        return EINVAL;
    }
    const auto use = [&](const py::handle& answer) { attributes.attr = attributes_from(answer, node); };
    return changed(ask("setattr", caller, use, path, handle, std::uint64_t{change.valid}, std::uint64_t{change.mode},
                       std::uint64_t{change.uid}, std::uint64_t{change.gid}, change.size,
                       change.atime * second_ns + change.atimensec, change.mtime * second_ns + change.mtimensec));
}

int PythonFs::access(const FuseCaller& caller, std::uint64_t node, std::uint32_t mask) noexcept {
    std::string path;
    const int error = path_of(node, kFuseNoHandle, path);
    return error != 0 ? error : tell("access", caller, path, std::uint64_t{mask});
}

int PythonFs::statfs(const FuseCaller& caller, std::uint64_t node, FuseStatfs& statfs) noexcept {
    std::string path;
    if (const int error = path_of(node, kFuseNoHandle, path); error != 0) {
        return error;
    }
    const auto use = [&](const py::handle& answer) {
        const auto fields = py::reinterpret_borrow<py::tuple>(answer);
        const auto number = [&fields](std::size_t at) { return fields[at].cast<std::uint64_t>(); };
        statfs.bsize = statfs.frsize = static_cast<std::uint32_t>(number(0));
        statfs.blocks = number(1);
        statfs.bfree = number(2);
        statfs.bavail = number(3);
        statfs.files = number(4);
        statfs.ffree = number(5);
        statfs.namelen = 255;
    };
    return ask("statfs", caller, use, path);
}

int PythonFs::setxattr(const FuseCaller& caller, std::uint64_t node, std::string_view name,
                       std::span<const std::byte> value, std::uint32_t flags) noexcept {
    std::string path;
    const int error = path_of(node, kFuseNoHandle, path);
    return error != 0 ? error : tell("setxattr", caller, path, name, value, std::uint64_t{flags});
}

int PythonFs::getxattr(const FuseCaller& caller, std::uint64_t node, std::string_view name,
                       std::string& value) noexcept {
    std::string path;
    const int error = path_of(node, kFuseNoHandle, path);
    const auto use = [&](const py::handle& answer) { value = answer.cast<std::string>(); };
    return error != 0 ? error : ask("getxattr", caller, use, path, name);
}

int PythonFs::listxattr(const FuseCaller& caller, std::uint64_t node, std::string& names) noexcept {
    std::string path;
    const int error = path_of(node, kFuseNoHandle, path);
    const auto use = [&](const py::handle& answer) {
        for (const py::handle name : py::reinterpret_borrow<py::list>(answer)) {
            names.append(fs_bytes(name)).push_back('\0');
        }
    };
    return error != 0 ? error : ask("listxattr", caller, use, path);
}

int PythonFs::removexattr(const FuseCaller& caller, std::uint64_t node, std::string_view name) noexcept {
    std::string path;
    const int error = path_of(node, kFuseNoHandle, path);
    return error != 0 ? error : tell("removexattr", caller, path, name);
}

void register_python_fs(py::module_& module) {
    py::classh<PythonFs, FileSystem>(module, "PythonFsCore", py::release_gil_before_calling_cpp_dtor(),
                                     "The core's half of vmthaw.filesystem.PythonFs.")
        .def(py::init([](py::object call) { return std::make_shared<PythonFs>(std::move(call)); }), py::arg("call"),
             "`call(operation, unique, uid, gid, pid, *arguments)` gives back (errno, answer) and raises nothing.");
}

}  // namespace vmthaw::bindings
