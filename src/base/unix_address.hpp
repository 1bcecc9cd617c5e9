#pragma once

#include <sys/socket.h>
#include <sys/un.h>

#include <string>
#include <string_view>

namespace vmthaw {

// The address of a UNIX socket: a path, or "@name" for Linux's abstract namespace. A plain value.
// of() throws ArgumentError when the path is empty, too long (107 bytes) or holds a NUL.
class UnixAddress {
public:
    [[nodiscard]] static UnixAddress of(const std::string& path);
    // How the kernel names a socket, in the notation of of(); "" when it has no name.
    [[nodiscard]] static std::string name_of(const sockaddr_un& address, socklen_t length);

    [[nodiscard]] const sockaddr* get() const noexcept { return reinterpret_cast<const sockaddr*>(&address_); }
    [[nodiscard]] socklen_t length() const noexcept { return length_; }
    [[nodiscard]] bool is_abstract() const noexcept { return address_.sun_path[0] == '\0'; }

private:
    sockaddr_un address_{};
    socklen_t length_ = 0;
};

}  // namespace vmthaw
