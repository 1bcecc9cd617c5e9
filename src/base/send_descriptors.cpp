#include "base/send_descriptors.hpp"

#include <sys/socket.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "base/error.hpp"

namespace vmthaw {

void send_descriptors(int socket, std::string_view text, std::span<const int> descriptors) {
    std::vector<char> control(descriptors.empty() ? 0 : CMSG_SPACE(descriptors.size_bytes()));
    iovec vector{const_cast<char*>(text.data()), text.size()};  // sendmsg does not write to it
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    if (!descriptors.empty()) {
        message.msg_control = control.data();
        message.msg_controllen = control.size();
        cmsghdr* header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(descriptors.size_bytes());
        std::memcpy(CMSG_DATA(header), descriptors.data(), descriptors.size_bytes());
    }
    while (!text.empty()) {
        const ssize_t sent = ::sendmsg(socket, &message, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) {
            continue;
        }
        check_errno_long(sent, "sendmsg with descriptors");
        text.remove_prefix(static_cast<std::size_t>(sent));
        vector = {const_cast<char*>(text.data()), text.size()};
        message.msg_control = nullptr;
        message.msg_controllen = 0;
    }
}

}  // namespace vmthaw
