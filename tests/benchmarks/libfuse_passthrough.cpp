// A minimal passthrough on libfuse3's low-level interface, for comparison: what somebody writes who wants /dev/fuse to
// be fast, and nothing else. Built and run by fuse_cases.py: libfuse_passthrough DIRECTORY MOUNTPOINT THREADS
// splice|copy
#define FUSE_USE_VERSION 312
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace {

struct Inode {
    int fd = -1;
    std::uint64_t look_ups = 0;
    std::pair<dev_t, ino_t> key;
};

std::mutex g_mutex;
std::map<std::pair<dev_t, ino_t>, Inode*> g_inodes;
Inode g_root;

Inode* inode_of(fuse_ino_t ino) { return ino == FUSE_ROOT_ID ? &g_root : reinterpret_cast<Inode*>(ino); }

std::string proc_path(int fd) { return "/proc/self/fd/" + std::to_string(fd); }

int look_up(fuse_ino_t parent, const char* name, fuse_entry_param& entry) {
    entry = {};
    const int fd = ::openat(inode_of(parent)->fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || ::fstatat(fd, "", &entry.attr, AT_EMPTY_PATH) != 0) {
        return errno;
    }
    const std::pair key(entry.attr.st_dev, entry.attr.st_ino);
    const std::lock_guard lock(g_mutex);
    Inode*& inode = g_inodes[key];
    if (inode == nullptr) {
        inode = new Inode{fd, 0, key};
    } else {
        ::close(fd);
    }
    ++inode->look_ups;
    entry.ino = reinterpret_cast<fuse_ino_t>(inode);
    return 0;
}

void op_lookup(fuse_req_t request, fuse_ino_t parent, const char* name) {
    fuse_entry_param entry;
    if (const int error = look_up(parent, name, entry); error != 0) {
        fuse_reply_err(request, error);
    } else {
        fuse_reply_entry(request, &entry);
    }
}

void op_forget(fuse_req_t request, fuse_ino_t ino, std::uint64_t count) {
    {
        const std::lock_guard lock(g_mutex);
        Inode* const inode = inode_of(ino);
        inode->look_ups -= count;
        if (inode != &g_root && inode->look_ups == 0) {
            ::close(inode->fd);
            g_inodes.erase(inode->key);
            delete inode;
        }
    }
    fuse_reply_none(request);
}

void op_getattr(fuse_req_t request, fuse_ino_t ino, fuse_file_info* /*info*/) {
    struct stat found{};
    if (::fstatat(inode_of(ino)->fd, "", &found, AT_EMPTY_PATH) != 0) {
        fuse_reply_err(request, errno);
    } else {
        fuse_reply_attr(request, &found, 0.0);
    }
}

void op_open(fuse_req_t request, fuse_ino_t ino, fuse_file_info* info) {
    const int fd = ::open(proc_path(inode_of(ino)->fd).c_str(), (info->flags & ~O_NOFOLLOW & ~O_DIRECT) | O_CLOEXEC);
    if (fd < 0) {
        fuse_reply_err(request, errno);
        return;
    }
    info->fh = static_cast<std::uint64_t>(fd);
    fuse_reply_open(request, info);
}

void op_create(fuse_req_t request, fuse_ino_t parent, const char* name, mode_t mode, fuse_file_info* info) {
    const int fd =
        ::openat(inode_of(parent)->fd, name, ((info->flags | O_CREAT) & ~O_NOFOLLOW & ~O_DIRECT) | O_CLOEXEC, mode);
    fuse_entry_param entry;
    if (fd < 0) {
        fuse_reply_err(request, errno);
    } else if (const int error = look_up(parent, name, entry); error != 0) {
        ::close(fd);
        fuse_reply_err(request, error);
    } else {
        info->fh = static_cast<std::uint64_t>(fd);
        fuse_reply_create(request, &entry, info);
    }
}

void op_read_copying(fuse_req_t request, fuse_ino_t /*ino*/, std::size_t size, off_t offset, fuse_file_info* info) {
    static thread_local std::vector<char> buffer;
    if (buffer.size() < size) {
        buffer.resize(size);
    }
    const ssize_t got = ::pread(static_cast<int>(info->fh), buffer.data(), size, offset);
    if (got < 0) {
        fuse_reply_err(request, errno);
    } else {
        fuse_reply_buf(request, buffer.data(), static_cast<std::size_t>(got));
    }
}

void op_read_splicing(fuse_req_t request, fuse_ino_t /*ino*/, std::size_t size, off_t offset, fuse_file_info* info) {
    fuse_bufvec source = FUSE_BUFVEC_INIT(size);
    source.buf[0].flags = static_cast<fuse_buf_flags>(FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK);
    source.buf[0].fd = static_cast<int>(info->fh);
    source.buf[0].pos = offset;
    fuse_reply_data(request, &source, FUSE_BUF_SPLICE_MOVE);
}

void op_write_copying(fuse_req_t request, fuse_ino_t /*ino*/, const char* data, std::size_t size, off_t offset,
                      fuse_file_info* info) {
    const ssize_t put = ::pwrite(static_cast<int>(info->fh), data, size, offset);
    if (put < 0) {
        fuse_reply_err(request, errno);
    } else {
        fuse_reply_write(request, static_cast<std::size_t>(put));
    }
}

void op_write_splicing(fuse_req_t request, fuse_ino_t /*ino*/, fuse_bufvec* data, off_t offset, fuse_file_info* info) {
    fuse_bufvec target = FUSE_BUFVEC_INIT(fuse_buf_size(data));
    target.buf[0].flags = static_cast<fuse_buf_flags>(FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK);
    target.buf[0].fd = static_cast<int>(info->fh);
    target.buf[0].pos = offset;
    const ssize_t put = fuse_buf_copy(&target, data, static_cast<fuse_buf_copy_flags>(0));
    if (put < 0) {
        fuse_reply_err(request, static_cast<int>(-put));
    } else {
        fuse_reply_write(request, static_cast<std::size_t>(put));
    }
}

void op_release(fuse_req_t request, fuse_ino_t /*ino*/, fuse_file_info* info) {
    ::close(static_cast<int>(info->fh));
    fuse_reply_err(request, 0);
}

void op_unlink(fuse_req_t request, fuse_ino_t parent, const char* name) {
    fuse_reply_err(request, ::unlinkat(inode_of(parent)->fd, name, 0) == 0 ? 0 : errno);
}

}  // namespace

int main(int count, char** words) {
    if (count != 5) {
        std::fputs("usage: libfuse_passthrough DIRECTORY MOUNTPOINT THREADS splice|copy\n", stderr);
        return 2;
    }
    g_root.fd = ::open(words[1], O_PATH);
    g_root.look_ups = 2;
    const bool splices = std::string(words[4]) == "splice";
    ::umask(0);
    fuse_lowlevel_ops operations{};
    operations.lookup = op_lookup;
    operations.forget = op_forget;
    operations.getattr = op_getattr;
    operations.open = op_open;
    operations.create = op_create;
    operations.read = splices ? op_read_splicing : op_read_copying;
    if (splices) {
        operations.write_buf = op_write_splicing;
    } else {
        operations.write = op_write_copying;
    }
    operations.release = op_release;
    operations.unlink = op_unlink;
    std::vector<char*> arguments{words[0]};
    std::string options = "-odefault_permissions,fsname=libfuse";
    arguments.push_back(options.data());
    fuse_args args = FUSE_ARGS_INIT(static_cast<int>(arguments.size()), arguments.data());
    fuse_session* const session = fuse_session_new(&args, &operations, sizeof operations, nullptr);
    if (session == nullptr || fuse_set_signal_handlers(session) != 0 || fuse_session_mount(session, words[2]) != 0) {
        return 1;
    }
    std::puts("mounted");
    std::fflush(stdout);
    fuse_loop_config* const config = fuse_loop_cfg_create();
    fuse_loop_cfg_set_clone_fd(config, 1);
    fuse_loop_cfg_set_max_threads(config, static_cast<unsigned>(std::atoi(words[3])));
    const int status = fuse_session_loop_mt(session, config);
    fuse_loop_cfg_destroy(config);
    fuse_session_unmount(session);
    return status == 0 ? 0 : 1;
}
