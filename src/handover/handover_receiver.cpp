#include "handover/handover_receiver.hpp"

#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <exception>
#include <system_error>

#include "base/error.hpp"

namespace vmthaw {
namespace {

constexpr std::size_t kPartBytes = 16384;
constexpr std::size_t kMaxDescriptors = 253;  // SCM_MAX_FD: the kernel passes no more at once
// Room for credentials as well: whoever made the listening socket may have asked for them.
constexpr std::size_t kControlBytes = CMSG_SPACE(kMaxDescriptors * sizeof(int)) + CMSG_SPACE(64);

std::string what_is(int fd) {
    std::array<char, 128> target{};
    const std::string link = "/proc/self/fd/" + std::to_string(fd);
    const ssize_t length = ::readlink(link.c_str(), target.data(), target.size());
    return length > 0 ? std::string(target.data(), static_cast<std::size_t>(length)) : "of unknown kind";
}

}  // namespace

HandoverStatus HandoverReceiver::step() noexcept {
    try {
        while (status_ == HandoverStatus::need_more) {
            const Receive received = receive_part();
            if (received == Receive::again || status_ == HandoverStatus::failed) {
                continue;
            }
            if (framing_.state() == HandoverFraming::State::complete && descriptor_) {
                finish_text();
                if (status_ == HandoverStatus::need_more) {
                    finish_descriptor();
                }
            } else if (received == Receive::ended) {
                at_end_of_stream();
            } else {
                break;
            }
        }
    } catch (const std::exception& error) {
        status_ = HandoverStatus::failed;
        try {
            failure_.text = error.what();
        } catch (...) {
            failure_.text.clear();  // no memory even for the reason
        }
    }
    if (status_ == HandoverStatus::failed) {
        descriptor_.reset();
        socket_.reset();
    }
    return status_;
}

HandoverReceiver::Receive HandoverReceiver::receive_part() {
    std::array<char, kPartBytes> part;  // NOLINT(cppcoreguidelines-pro-type-member-init): only what was read is used
    alignas(cmsghdr) std::array<char, kControlBytes> control;  // NOLINT(cppcoreguidelines-pro-type-member-init)
    iovec vector{part.data(), part.size()};
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const ssize_t got = ::recvmsg(socket_.get(), &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    const int error_number = got < 0 ? errno : 0;
    if (error_number == EINTR) {
        return Receive::again;
    }
    if (error_number == EAGAIN || error_number == EWOULDBLOCK) {
        return Receive::drained;
    }
    if (error_number == ECONNRESET) {
        return Receive::ended;  // the VMM died with something of ours unread
    }
    if (error_number != 0) {
        fail("receiving the hand-over failed: " + std::generic_category().message(error_number));
        return Receive::drained;
    }
    collect_descriptors(message);
    if ((static_cast<unsigned>(message.msg_flags) & static_cast<unsigned>(MSG_CTRUNC)) != 0) {
        fail(
            "descriptors were lost on the way (MSG_CTRUNC): this process is at its limit of open descriptors; raise "
            "RLIMIT_NOFILE",
            "descriptor");
        return Receive::drained;
    }
    if (got == 0) {
        return Receive::ended;
    }
    const std::string_view bytes(part.data(), static_cast<std::size_t>(got));
    if (bytes.size() > kMaxHandoverBytes - text_.size()) {
        fail("the message is longer than " + std::to_string(kMaxHandoverBytes) + " bytes");
        return Receive::drained;
    }
    text_.append(bytes);
    if (framing_.feed(bytes) == HandoverFraming::State::invalid) {
        fail(std::string("the message is not an array of regions: ") + framing_.problem() + " (byte " +
             std::to_string(framing_.offset()) + ")");
    }
    return Receive::again;
}

void HandoverReceiver::collect_descriptors(msghdr& message) {
    for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        const std::size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (std::size_t i = 0; i < count; ++i) {
            int fd = -1;
            std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof fd);
            UniqueFd received(fd);  // closed here unless it is the first
            if (!descriptor_) {
                descriptor_ = std::move(received);
            } else {
                ++surplus_;
            }
        }
    }
}

void HandoverReceiver::finish_text() {
    try {
        regions_ = parse_handover_message(text_);
    } catch (const Error& error) {
        std::string field;
        for (const auto& [name, value] : error.fields()) {
            if (const auto* text = std::get_if<std::string>(&value); text != nullptr && name == "field") {
                field = *text;
            }
        }
        fail(error.what(), std::move(field));
    }
}

void HandoverReceiver::finish_descriptor() {
    const std::string kind = what_is(descriptor_.get());
    try {
        userfaultfd_.emplace(Userfaultfd::adopt(std::move(descriptor_)));
        status_ = HandoverStatus::complete;
    } catch (const Error& error) {
        fail("the descriptor that came with the message is not a usable userfaultfd but " + kind + ": " + error.what(),
             "descriptor");
    }
}

void HandoverReceiver::at_end_of_stream() {
    fail("the VMM closed the connection before its hand-over was complete: " + received_so_far(),
         framing_.state() == HandoverFraming::State::complete ? "descriptor" : "");
}

void HandoverReceiver::fail(std::string text, std::string field) {
    status_ = HandoverStatus::failed;
    failure_.text = std::move(text);
    failure_.field = std::move(field);
}

std::string HandoverReceiver::received_so_far() const {
    const char* descriptor = descriptor_ ? "a descriptor" : "no descriptor";
    if (text_.empty()) {
        return descriptor_ ? "a descriptor came, but no message" : "nothing came";
    }
    if (framing_.state() == HandoverFraming::State::complete) {
        return "the message came, but no descriptor (SCM_RIGHTS)";
    }
    return std::to_string(text_.size()) + " bytes of an unfinished message and " + descriptor + " came";
}

std::string HandoverReceiver::pending_problem() const { return received_so_far(); }

Handover HandoverReceiver::take() {
    if (status_ != HandoverStatus::complete || !userfaultfd_) {
        throw StateError("the hand-over is not complete, or was taken already");
    }
    Handover handover{std::move(socket_), std::move(*userfaultfd_), std::move(regions_), surplus_};
    userfaultfd_.reset();
    return handover;
}

}  // namespace vmthaw
