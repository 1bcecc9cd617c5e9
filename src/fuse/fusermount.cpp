#include "fuse/fusermount.hpp"

#include <fcntl.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <exception>
#include <string_view>
#include <vector>

#include "base/error.hpp"

namespace vmthaw {
namespace {

constexpr int kChildSocket = 3;  // the helper's name for its end
constexpr int kAboveIt = 10;     // ours are duplicated here first, so that dup2 clears close-on-exec

struct Pair {
    UniqueFd ours;
    UniqueFd theirs;
};

UniqueFd above(UniqueFd fd) {
    return UniqueFd(check_errno(::fcntl(fd.get(), F_DUPFD_CLOEXEC, kAboveIt), "fcntl(F_DUPFD_CLOEXEC)"));
}

Pair socket_pair() {
    std::array<int, 2> ends{};
    check_errno(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), "socketpair");
    Pair pair{UniqueFd(ends[0]), UniqueFd(ends[1])};
    pair.theirs = above(std::move(pair.theirs));
    return pair;
}

Pair pipe_pair() {
    std::array<int, 2> ends{};
    check_errno(::pipe2(ends.data(), O_CLOEXEC), "pipe2");
    Pair pair{UniqueFd(ends[0]), UniqueFd(ends[1])};
    pair.theirs = above(std::move(pair.theirs));
    return pair;
}

class FileActions {
public:
    FileActions() { check_returned(::posix_spawn_file_actions_init(&actions_), "posix_spawn_file_actions_init"); }
    ~FileActions() { ::posix_spawn_file_actions_destroy(&actions_); }
    FileActions(const FileActions&) = delete;
    FileActions& operator=(const FileActions&) = delete;
    void redirect(int from, int to) {
        check_returned(::posix_spawn_file_actions_adddup2(&actions_, from, to), "posix_spawn_file_actions_adddup2");
    }
    [[nodiscard]] const posix_spawn_file_actions_t* get() const noexcept { return &actions_; }

private:
    posix_spawn_file_actions_t actions_{};
};

std::string read_to_end(int fd) {
    std::string text;
    std::array<char, 512> piece{};
    for (;;) {
        const ssize_t got = ::read(fd, piece.data(), piece.size());
        if (got > 0) {
            text.append(piece.data(), static_cast<std::size_t>(got));
        } else if (got == 0 || errno != EINTR) {
            return text.substr(0, text.find_last_not_of(" \n") + 1);
        }
    }
}

struct Ended {
    int status = 0;
    std::string said;
};

// Runs the helper to its end. `socket` is its end of the connection, or none.
Ended run_fusermount(std::vector<std::string> arguments, int socket) {
    Pair errors = pipe_pair();
    FileActions actions;
    actions.redirect(errors.theirs.get(), STDERR_FILENO);
    std::string environment = "_FUSE_COMMFD=" + std::to_string(kChildSocket);
    if (socket >= 0) {
        actions.redirect(socket, kChildSocket);
    }
    arguments.insert(arguments.begin(), "fusermount3");
    std::vector<char*> argv;
    for (std::string& argument : arguments) {
        argv.push_back(argument.data());
    }
    argv.push_back(nullptr);
    std::vector<char*> env{environment.data()};
    for (char** entry = ::environ; *entry != nullptr; ++entry) {
        if (!std::string_view(*entry).starts_with("_FUSE_COMMFD=")) {
            env.push_back(*entry);
        }
    }
    env.push_back(nullptr);
    pid_t pid = -1;
    if (const int error = ::posix_spawnp(&pid, "fusermount3", actions.get(), nullptr, argv.data(), env.data());
        error != 0) {
        throw SystemError(error, "fusermount3", "install the package fuse3, or mount as root");
    }
    errors.theirs.reset();
    Ended ended;
    ended.said = read_to_end(errors.ours.get());
    while (::waitpid(pid, &ended.status, 0) < 0 && errno == EINTR) {
    }
    return ended;
}

UniqueFd receive_device(int socket) {
    char byte = 0;
    iovec piece{&byte, 1};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    ssize_t got = -1;
    do {
        got = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    } while (got < 0 && errno == EINTR);
    const cmsghdr* const header = CMSG_FIRSTHDR(&message);
    if (got <= 0 || header == nullptr || header->cmsg_type != SCM_RIGHTS || header->cmsg_len != CMSG_LEN(sizeof(int))) {
        return UniqueFd();
    }
    int fd = -1;
    std::memcpy(&fd, CMSG_DATA(header), sizeof fd);
    return UniqueFd(fd);
}

}  // namespace

UniqueFd fusermount_mount(const std::string& mount_point, const std::string& options) {
    Pair connection = socket_pair();
    const Ended ended = run_fusermount({"-o", options, "--", mount_point}, connection.theirs.get());
    connection.theirs.reset();
    UniqueFd device = receive_device(connection.ours.get());
    if (!device) {
        const int error = ended.said.find("ermission denied") != std::string::npos ? EACCES : EPERM;
        throw SystemError(error, "mounting on " + mount_point, ended.said.empty() ? "fusermount3 failed" : ended.said);
    }
    return device;
}

int fusermount_unmount(const std::string& mount_point, bool lazy) noexcept {
    try {
        std::vector<std::string> arguments{"-u", "-q"};
        if (lazy) {
            arguments.emplace_back("-z");
        }
        arguments.insert(arguments.end(), {"--", mount_point});
        const Ended ended = run_fusermount(std::move(arguments), -1);
        return WIFEXITED(ended.status) && WEXITSTATUS(ended.status) == 0 ? 0 : EBUSY;
    } catch (const SystemError& error) {
        return error.errno_value();
    } catch (const std::exception&) {
        return ENOMEM;
    }
}

}  // namespace vmthaw
