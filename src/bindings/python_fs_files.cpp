#include <utility>

#include "bindings/python_fs.hpp"
#include "bindings/python_fs_asking.hpp"
#include "kernel/fuse.hpp"

// GIL and locking: as python_fs.cpp.
namespace vmthaw::bindings {

int PythonFs::readlink(const FuseCaller& caller, std::uint64_t node, std::string& target) noexcept {
    std::string path;
    const int error = path_of(node, kFuseNoHandle, path);
    const auto use = [&](const py::handle& answer) { target = fs_bytes(answer); };
    return error != 0 ? error : ask("readlink", caller, use, path);
}

int PythonFs::symlink(const FuseCaller& caller, std::uint64_t parent, std::string_view name, std::string_view target,
                      NodeEntry& entry) noexcept {
    return changed(make("symlink", caller, parent, name, entry, target));
}

int PythonFs::mknod(const FuseCaller& caller, std::uint64_t parent, std::string_view name, const FuseMknodIn& request,
                    NodeEntry& entry) noexcept {
    return changed(
        make("mknod", caller, parent, name, entry, std::uint64_t{request.mode}, std::uint64_t{request.rdev}));
}

int PythonFs::mkdir(const FuseCaller& caller, std::uint64_t parent, std::string_view name, const FuseMkdirIn& request,
                    NodeEntry& entry) noexcept {
    return changed(make("mkdir", caller, parent, name, entry, std::uint64_t{request.mode}));
}

int PythonFs::unlink(const FuseCaller& caller, std::uint64_t parent, std::string_view name) noexcept {
    std::string path;
    int error = nodes_.path_of(parent, name, path);
    if (error == 0) {
        error = changed(tell("unlink", caller, path));
    }
    if (error == 0) {
        nodes_.removed(parent, name);
    }
    return error;
}

int PythonFs::rmdir(const FuseCaller& caller, std::uint64_t parent, std::string_view name) noexcept {
    std::string path;
    int error = nodes_.path_of(parent, name, path);
    if (error == 0) {
        error = changed(tell("rmdir", caller, path));
    }
    if (error == 0) {
        nodes_.removed(parent, name);
    }
    return error;
}

int PythonFs::rename(const FuseCaller& caller, std::uint64_t parent, std::string_view name, std::uint64_t new_parent,
                     std::string_view new_name, std::uint32_t flags) noexcept {
    std::string from;
    std::string to;
    int error = nodes_.path_of(parent, name, from);
    if (error == 0) {
        error = nodes_.path_of(new_parent, new_name, to);
    }
    const auto is_below = [](const std::string& path, const std::string& directory) {
        return path.size() > directory.size() && path.starts_with(directory) && path[directory.size()] == '/';
    };
    if (error == 0 && (is_below(to, from) || ((flags & kRenameExchange) != 0 && is_below(from, to)))) {
        return EINVAL;
    }
    if (error == 0) {
        error = changed(tell("rename", caller, from, to, std::uint64_t{flags}));
    }
    if (error == 0) {
        nodes_.renamed(parent, name, new_parent, new_name, (flags & kRenameExchange) != 0);
    }
    return error;
}

int PythonFs::link(const FuseCaller& caller, std::uint64_t node, std::uint64_t new_parent, std::string_view new_name,
                   NodeEntry& entry) noexcept {
    std::string path;
    const int error = path_of(node, kFuseNoHandle, path);
    return error != 0 ? error : changed(make("link", caller, new_parent, new_name, entry, path));
}

int PythonFs::open(const FuseCaller& caller, std::uint64_t node, const FuseOpenIn& request,
                   OpenedFile& opened) noexcept {
    std::string path;
    int error = path_of(node, kFuseNoHandle, path);
    if (error == 0) {
        error = add_handle(node, false, opened.handle);
    }
    if (error != 0) {
        return error;
    }
    const auto use = [&](const py::handle& answer) { opened.open_flags = answer.cast<std::uint32_t>(); };
    error = changed(ask("open", caller, use, path, std::uint64_t{request.flags}, opened.handle));
    if (error != 0) {
        drop_handle(opened.handle);
    }
    return error;
}

int PythonFs::create(const FuseCaller& caller, std::uint64_t parent, std::string_view name, const FuseCreateIn& request,
                     NodeEntry& entry, OpenedFile& opened) noexcept {
    // The number first, so that Python can keep its own handle under it; the node when there is one.
    int error = add_handle(0, false, opened.handle);
    if (error != 0) {
        return error;
    }
    error = changed(make("create", caller, parent, name, entry, std::uint64_t{request.mode},
                         std::uint64_t{request.flags}, opened.handle));
    if (error == ESTALE || error == ENOMEM) {
        static_cast<void>(tell("release", caller, std::string("/"), opened.handle));
    }
    if (error != 0) {
        drop_handle(opened.handle);
        return error;
    }
    const std::lock_guard lock(mutex_);
    handles_.find(opened.handle)->second.node = entry.node;
    return 0;
}

// NOLINTNEXTLINE(bugprone-exception-escape): ask() catches what its lambda throws
int PythonFs::read(const FuseCaller& caller, std::uint64_t node, const FuseReadIn& request,
                   ReadAnswer& answer) noexcept {
    std::string path;
    if (const int error = path_of(node, request.fh, path); error != 0) {
        return error;
    }
    const auto use = [&](const py::handle& given) { answer.length_bytes = copy_fs_bytes(given, answer.buffer); };
    return ask("read", caller, use, path, std::uint64_t{answer.buffer.size()}, request.offset, request.fh);
}

int PythonFs::write(const FuseCaller& caller, std::uint64_t node, const FuseWriteIn& request,
                    std::span<const std::byte> data, std::uint32_t& written_bytes) noexcept {
    std::string path;
    if (const int error = path_of(node, request.fh, path); error != 0) {
        return error;
    }
    const auto use = [&](const py::handle& given) { written_bytes = given.cast<std::uint32_t>(); };
    return changed(ask("write", caller, use, path, data, request.offset, request.fh));
}

int PythonFs::flush(const FuseCaller& caller, std::uint64_t node, const FuseFlushIn& request) noexcept {
    std::string path;
    const int error = path_of(node, request.fh, path);
    return error != 0 ? error : tell("flush", caller, path, request.fh);
}

int PythonFs::release(const FuseCaller& caller, std::uint64_t node, const FuseReleaseIn& request) noexcept {
    if (const int error = check_handle(node, request.fh, false); error != 0) {
        return error;
    }
    std::string path;
    static_cast<void>(nodes_.path_of(node, path));
    drop_handle(request.fh);
    return tell("release", caller, path, request.fh);
}

int PythonFs::fsync(const FuseCaller& caller, std::uint64_t node, std::uint64_t handle, bool data_only) noexcept {
    std::string path;
    const int error = path_of(node, handle, path);
    return error != 0 ? error : tell("fsync", caller, path, std::uint64_t{data_only}, handle);
}

int PythonFs::fallocate(const FuseCaller& caller, std::uint64_t node, const FuseFallocateIn& request) noexcept {
    std::string path;
    const int error = path_of(node, request.fh, path);
    return error != 0 ? error
                      : changed(tell("fallocate", caller, path, std::uint64_t{request.mode}, request.offset,
                                     request.length, request.fh));
}

int PythonFs::lseek(const FuseCaller& caller, std::uint64_t node, const FuseLseekIn& request,
                    std::uint64_t& offset_bytes) noexcept {
    std::string path;
    const int error = path_of(node, request.fh, path);
    const auto use = [&](const py::handle& answer) { offset_bytes = answer.cast<std::uint64_t>(); };
    return error != 0 ? error
                      : ask("lseek", caller, use, path, request.offset, std::uint64_t{request.whence}, request.fh);
}

int PythonFs::copy_file_range(const FuseCaller& caller, std::uint64_t node, const FuseCopyFileRangeIn& request,
                              std::uint64_t& copied_bytes) noexcept {
    std::string from;
    std::string to;
    int error = path_of(node, request.fh_in, from);
    if (error == 0) {
        error = path_of(request.nodeid_out, request.fh_out, to);
    }
    const auto use = [&](const py::handle& answer) { copied_bytes = answer.cast<std::uint64_t>(); };
    return error != 0 ? error
                      : changed(ask("copy_file_range", caller, use, from, request.off_in, request.fh_in, to,
                                    request.off_out, request.fh_out, request.len));
}

int PythonFs::dax_map(std::uint64_t node, std::uint64_t handle, std::uint64_t offset_bytes, std::uint64_t length_bytes,
                      std::uint32_t prot, Lease& lease) noexcept {
    std::string path;
    if (const int error = path_of(node, handle, path); error != 0) {
        return error;
    }
    const std::uint64_t token = next_lease_.fetch_add(1);
    const auto use = [&](const py::handle& answer) {
        const auto fields = py::reinterpret_borrow<py::tuple>(answer);
        lease = {fields[0].cast<int>(), fields[1].cast<std::uint64_t>(), fields[2].cast<std::uint64_t>(), token};
    };
    return ask("dax_map", {}, use, path, offset_bytes, length_bytes, std::uint64_t{(prot & kDaxWrite) != 0 ? 1U : 0U},
               token);
}

int PythonFs::dax_unmap(const Lease& lease) noexcept { return tell("dax_unmap", {}, lease.token); }

}  // namespace vmthaw::bindings
