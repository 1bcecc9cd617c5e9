#include "testing/textbook_loop.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "kernel/userfaultfd.hpp"

namespace vmthaw::testing {
namespace {

// The number behind "key": in a message from a VMM that is trusted (this is a benchmark's baseline).
std::uint64_t number_after(const std::string& text, const char* key, std::size_t from) {
    const std::size_t at = text.find(key, from);
    return at == std::string::npos ? 0 : std::strtoull(text.c_str() + at + std::strlen(key), nullptr, 10);
}

}  // namespace

TextbookLoop::TextbookLoop(std::string socket_path, const std::string& memory_path, TextbookMutations mutations)
    : socket_path_(std::move(socket_path)), mutations_(mutations) {
    const UniqueFd file(check_errno(::open(memory_path.c_str(), O_RDONLY | O_CLOEXEC), "open(memory file)"));
    struct stat found{};
    check_errno(::fstat(file.get(), &found), "fstat(memory file)");
    file_ = Mapping::map(static_cast<std::size_t>(found.st_size), PROT_READ, MAP_PRIVATE, file.get(), 0,
                         "mmap(memory file)");
    listener_ = UniqueFd(check_errno(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket(AF_UNIX)"));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (socket_path_.empty() || socket_path_.size() >= sizeof address.sun_path) {
        throw ArgumentError("the socket path is empty or too long: " + socket_path_);
    }
    std::memcpy(address.sun_path, socket_path_.data(), socket_path_.size());
    check_errno(::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), "bind");
    check_errno(::listen(listener_.get(), 1), "listen");
}

TextbookLoop::~TextbookLoop() { ::unlink(socket_path_.c_str()); }

bool TextbookLoop::wait_readable(int fd) const {
    std::array<pollfd, 2> fds{pollfd{fd, POLLIN, 0}, pollfd{stop_.fd(), POLLIN, 0}};
    while (::poll(fds.data(), fds.size(), -1) < 0 && errno == EINTR) {
    }
    return fds[1].revents == 0;
}

UniqueFd TextbookLoop::receive(int connection) {
    std::vector<char> text(1U << 20U);
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
    iovec vector{text.data(), text.size()};
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const ssize_t got = check_errno_long(::recvmsg(connection, &message, MSG_CMSG_CLOEXEC), "recvmsg(hand-over)");
    const cmsghdr* header = CMSG_FIRSTHDR(&message);
    if (got == 0 || header == nullptr || header->cmsg_type != SCM_RIGHTS) {
        throw Error("the textbook server got no message with a descriptor", "HandoverError");
    }
    int fd = -1;
    std::memcpy(&fd, CMSG_DATA(header), sizeof fd);
    const std::string json(text.data(), static_cast<std::size_t>(got));
    for (std::size_t at = json.find('{'); at != std::string::npos; at = json.find('{', at + 1)) {
        const Region region{number_after(json, "\"base_host_virt_addr\":", at), number_after(json, "\"size\":", at),
                            number_after(json, "\"offset\":", at), number_after(json, "\"page_size\":", at)};
        if (region.page_size == 0) {
            throw Error("the textbook server understands messages with page_size only", "HandoverError");
        }
        regions_.push_back(region);
        removed_.emplace_back(region.size / region.page_size);
    }
    return UniqueFd(fd);
}

TextbookStats TextbookLoop::serve(int cpu) {
    if (cpu >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(static_cast<unsigned>(cpu), &set);
        check_errno(::sched_setaffinity(0, sizeof set, &set), "sched_setaffinity");
    }
    if (!wait_readable(listener_.get())) {
        return stats_;
    }
    const UniqueFd connection(check_errno(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC), "accept"));
    if (!wait_readable(connection.get())) {
        return stats_;
    }
    const UniqueFd userfaultfd = receive(connection.get());
    const std::uint64_t start = thread_time_ns();
    loop(connection.get(), userfaultfd.get());
    stats_.cpu_ns = thread_time_ns() - start;
    return stats_;
}

void TextbookLoop::loop(int connection, int userfaultfd) {
    for (;;) {
        std::array<pollfd, 3> fds{pollfd{userfaultfd, POLLIN, 0}, pollfd{connection, POLLIN, 0},
                                  pollfd{stop_.fd(), POLLIN, 0}};
        const int ready = ::poll(fds.data(), fds.size(), deferred_.empty() ? -1 : 1);
        if (ready < 0 && errno != EINTR) {
            check_errno(ready, "poll");
        }
        if (fds[1].revents != 0 || fds[2].revents != 0) {
            return;  // the VM hung up, or stop()
        }
        UffdMessage message{};
        if (fds[0].revents != 0 && ::read(userfaultfd, &message, sizeof message) == sizeof message) {
            if (message.event == kEventRemove) {
                remove(message.arg.remove.start, message.arg.remove.end);
            } else if (message.event == kEventPagefault) {
                ++stats_.faults;
                if (!answer(userfaultfd, message.arg.pagefault.address)) {
                    deferred_.push_back(message.arg.pagefault.address);
                }
                continue;
            }
        }
        std::vector<std::uint64_t> retry;
        retry.swap(deferred_);
        for (const std::uint64_t address : retry) {
            ++stats_.retries;
            if (!answer(userfaultfd, address)) {
                deferred_.push_back(address);
            }
        }
    }
}

void TextbookLoop::remove(std::uint64_t start, std::uint64_t end) {
    ++stats_.removes;
    for (std::size_t i = 0; i < regions_.size(); ++i) {
        const Region& region = regions_[i];
        for (std::uint64_t at = start; at < end; at += region.page_size) {
            if (at >= region.host_address && at - region.host_address < region.size && !mutations_.stale_after_remove) {
                removed_[i][(at - region.host_address) / region.page_size] = true;
            }
        }
    }
}

bool TextbookLoop::answer(int userfaultfd, std::uint64_t address) {
    for (std::size_t i = 0; i < regions_.size(); ++i) {
        const Region& region = regions_[i];
        if (address < region.host_address || address - region.host_address >= region.size) {
            continue;
        }
        const std::uint64_t page = (address - region.host_address) / region.page_size;
        const std::uint64_t host_page = region.host_address + page * region.page_size;
        if (stats_.faults == mutations_.lost_fault_at_fault && lost_page_ == 0) {
            lost_page_ = host_page;
        }
        if (host_page == lost_page_) {
            return true;
        }
        std::uint64_t offset = region.file_offset + page * region.page_size;
        if (stats_.faults == mutations_.wrong_page_at_fault) {
            offset ^= region.page_size;
        }
        const char* source = reinterpret_cast<const char*>(file_.data()) + offset;
        const bool zero = removed_[i][page] || offset + region.page_size > file_.size();
        if (zero || stats_.faults == mutations_.wrong_byte_at_fault) {
            bounce_.assign(region.page_size, 0);
            if (!zero) {
                std::memcpy(bounce_.data(), source, region.page_size);
                bounce_[region.page_size / 2] = static_cast<char>(bounce_[region.page_size / 2] ^ 1);
            }
            source = bounce_.data();
            stats_.zero_pages += zero ? 1U : 0U;
        }
        UffdCopy copy{host_page, reinterpret_cast<std::uint64_t>(source), region.page_size, 0, 0};
        if (::ioctl(userfaultfd, kUffdioCopy, &copy) == 0) {
            return true;
        }
        if (errno == EEXIST) {
            UffdRange range{host_page, region.page_size};
            ::ioctl(userfaultfd, kUffdioWake, &range);
            return true;
        }
        return errno != EAGAIN;  // anything else: the VM is going away
    }
    return true;
}

}  // namespace vmthaw::testing
