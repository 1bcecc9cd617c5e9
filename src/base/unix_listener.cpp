#include "base/unix_listener.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <climits>
#include <ctime>
#include <utility>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "base/unix_address.hpp"

namespace vmthaw {
namespace {

constexpr std::uint64_t kLockPatience_ns = 1'000'000'000;

// Held while a stale socket is tested and replaced: otherwise two servers starting at once could each take the other's
// socket, bound but not listening yet, for a stale one. Best effort: a directory that cannot be read is not locked.
class DirectoryLock {
public:
    explicit DirectoryLock(const std::string& directory)
        : fd_(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
        const std::uint64_t deadline = monotonic_ns() + kLockPatience_ns;
        while (fd_ && ::flock(fd_.get(), LOCK_EX | LOCK_NB) != 0 && (errno == EWOULDBLOCK || errno == EINTR) &&
               monotonic_ns() < deadline) {
            const timespec pause{0, 1'000'000};
            ::nanosleep(&pause, nullptr);
        }
    }

private:
    UniqueFd fd_;
};

std::string absolute(const std::string& path) {
    if (path.front() == '/') {
        return path;
    }
    std::array<char, PATH_MAX> directory{};
    if (::getcwd(directory.data(), directory.size()) == nullptr) {
        const int saved = errno;
        throw SystemError(saved, "getcwd");
    }
    return std::string(directory.data()) + "/" + path;
}

std::string directory_of(const std::string& absolute_path) {
    const std::size_t slash = absolute_path.rfind('/');
    return slash == 0 ? "/" : absolute_path.substr(0, slash);
}

UniqueFd stream_socket() {
    return UniqueFd(check_errno(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), "socket(AF_UNIX)"));
}

// Removes a socket file that nobody listens on; throws when somebody does or when it is something else.
void clear_the_way(const UnixAddress& address, const std::string& path) {
    struct stat found{};
    if (::lstat(path.c_str(), &found) != 0) {
        const int saved = errno;
        if (saved == ENOENT) {
            return;
        }
        throw SystemError(saved, "lstat(" + path + ")");
    }
    if (!S_ISSOCK(found.st_mode)) {
        throw SystemError(EEXIST, "listening on " + path,
                          "something that is not a socket has that name; remove it or choose another path");
    }
    const UniqueFd probe = stream_socket();
    // Non-blocking: a live server with a full queue answers EAGAIN.
    const int result = ::connect(probe.get(), address.get(), address.length());
    const int saved = errno;
    if (result == 0 || saved == EAGAIN || saved == EPROTOTYPE) {
        throw SystemError(EADDRINUSE, "listening on " + path,
                          "another server is listening there; stop it or choose another path");
    }
    if (saved == ENOENT) {
        return;
    }
    if (saved != ECONNREFUSED) {
        throw SystemError(saved, "testing whether somebody listens on " + path);
    }
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
        const int unlink_errno = errno;
        throw SystemError(unlink_errno, "removing the stale socket " + path);
    }
}

void set_owner(const std::string& path, const UnixListenerOptions& options) {
    const uid_t uid = options.owner_uid.value_or(static_cast<uid_t>(-1));
    const gid_t gid = options.owner_gid.value_or(static_cast<gid_t>(-1));
    if ((options.owner_uid || options.owner_gid) && ::lchown(path.c_str(), uid, gid) != 0) {
        const int saved = errno;
        throw SystemError(saved, "chown of the socket " + path, "giving a file away needs root (CAP_CHOWN)");
    }
}

int socket_option(int fd, int option, const char* operation) {
    int value = 0;
    socklen_t length = sizeof value;
    check_errno(::getsockopt(fd, SOL_SOCKET, option, &value, &length), operation);
    return value;
}

}  // namespace

UnixListener UnixListener::create(const std::string& path, const UnixListenerOptions& options) {
    const UnixAddress address = UnixAddress::of(path);
    UniqueFd socket = stream_socket();
    UnixListener listener(std::move(socket), path);
    const int fd = listener.fd();
    if (address.is_abstract()) {
        check_errno(::bind(fd, address.get(), address.length()), "bind to an abstract socket");
        check_errno(::listen(fd, options.backlog), "listen");
        return listener;
    }
    const std::string file = absolute(path);
    const DirectoryLock lock(directory_of(file));
    clear_the_way(address, path);
    // Linux gives the file the mode of the socket's own inode (less the umask), so it is right from its first moment,
    // with no change of the process-wide umask, which other threads would see.
    check_errno(::fchmod(fd, options.mode), "fchmod of a socket");
    if (::bind(fd, address.get(), address.length()) != 0) {
        const int saved = errno;
        throw SystemError(saved, "bind to " + path);
    }
    struct stat made{};
    check_errno(::lstat(file.c_str(), &made), "lstat of the new socket");
    listener.file_ = file;
    listener.device_ = made.st_dev;
    listener.inode_ = made.st_ino;
    // Nobody can connect before listen(), so mode and owner are right before the first connection.
    if ((made.st_mode & 07777U) != options.mode) {
        check_errno(::chmod(file.c_str(), options.mode), "chmod of the socket");  // an unusual umask took bits away
    }
    set_owner(file, options);
    check_errno(::listen(fd, options.backlog), "listen");
    return listener;
}

UnixListener UnixListener::adopt(UniqueFd socket) {
    const int fd = socket.get();
    struct stat found{};
    check_errno(::fstat(fd, &found), "fstat of the socket that was given");
    if (!S_ISSOCK(found.st_mode)) {
        throw ArgumentError("descriptor " + std::to_string(fd) + " is not a socket");
    }
    if (socket_option(fd, SO_DOMAIN, "getsockopt(SO_DOMAIN)") != AF_UNIX ||
        socket_option(fd, SO_TYPE, "getsockopt(SO_TYPE)") != SOCK_STREAM) {
        throw ArgumentError("descriptor " + std::to_string(fd) +
                            " is not a UNIX stream socket (systemd: ListenStream=/path)");
    }
    if (socket_option(fd, SO_ACCEPTCONN, "getsockopt(SO_ACCEPTCONN)") == 0) {
        throw ArgumentError("descriptor " + std::to_string(fd) +
                            " does not listen; give the listening socket, not a connection (systemd: Accept=no)");
    }
    const int flags = check_errno(::fcntl(fd, F_GETFL), "fcntl(F_GETFL)");
    check_errno(::fcntl(fd, F_SETFL, static_cast<int>(static_cast<unsigned>(flags) | unsigned{O_NONBLOCK})),
                "fcntl(F_SETFL)");
    check_errno(::fcntl(fd, F_SETFD, FD_CLOEXEC), "fcntl(F_SETFD)");
    sockaddr_un address{};
    socklen_t length = sizeof address;
    check_errno(::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length), "getsockname");
    return {std::move(socket), UnixAddress::name_of(address, length)};
}

UnixListener& UnixListener::operator=(UnixListener&& other) noexcept {
    if (this != &other) {
        close();
        socket_ = std::move(other.socket_);
        path_ = std::move(other.path_);
        file_ = std::exchange(other.file_, {});
        device_ = other.device_;
        inode_ = other.inode_;
        guard_ = other.guard_;
    }
    return *this;
}

AcceptOutcome accept_connection(int listening_fd) noexcept {
    for (;;) {
        const int fd = ::accept4(listening_fd, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
            return {AcceptStatus::accepted, UniqueFd(fd), 0};
        }
        const int error_number = errno;
        switch (error_number) {
            case EINTR:
            case ECONNABORTED:  // that one has gone again
                continue;
            case EAGAIN:
                return {};
            case EMFILE:
            case ENFILE:
            case ENOMEM:
            case ENOBUFS:
                return {AcceptStatus::out_of_descriptors, {}, error_number};
            default:
                return {AcceptStatus::failed, {}, error_number};
        }
    }
}

void UnixListener::close() noexcept {
    if (socket_ && !file_.empty() && !guard_.inherited()) {
        const int saved = errno;
        struct stat found{};
        if (::lstat(file_.c_str(), &found) == 0 && found.st_dev == device_ && found.st_ino == inode_) {
            ::unlink(file_.c_str());
        }
        errno = saved;
    }
    file_.clear();
    socket_.reset();
}

}  // namespace vmthaw
