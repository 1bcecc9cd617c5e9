#include "base/unix_address.hpp"

#include <cstddef>
#include <cstring>

#include "base/error.hpp"

namespace vmthaw {

UnixAddress UnixAddress::of(const std::string& path) {
    UnixAddress result;
    constexpr std::size_t kRoom = sizeof result.address_.sun_path;
    const bool abstract_name = !path.empty() && path.front() == '@';
    if (path.empty() || path == "@") {
        throw ArgumentError("the socket path is empty; give a path, or \"@name\" for an abstract socket");
    }
    if (path.find('\0') != std::string::npos) {
        throw ArgumentError("the socket path holds a NUL byte");
    }
    if (path.size() > kRoom - 1) {
        throw ArgumentError("the socket path has " + std::to_string(path.size()) + " bytes and the kernel takes " +
                            std::to_string(kRoom - 1) + ": use a shorter directory such as /run/vmthaw, or a path " +
                            "relative to the working directory (" + path + ")");
    }
    result.address_.sun_family = AF_UNIX;
    std::memcpy(result.address_.sun_path, path.data(), path.size());
    std::size_t length = offsetof(sockaddr_un, sun_path) + path.size();
    if (abstract_name) {
        result.address_.sun_path[0] = '\0';  // its length ends an abstract name, not a NUL
    } else {
        ++length;
    }
    result.length_ = static_cast<socklen_t>(length);
    return result;
}

std::string UnixAddress::name_of(const sockaddr_un& address, socklen_t length) {
    constexpr std::size_t kHeader = offsetof(sockaddr_un, sun_path);
    if (length <= kHeader) {
        return {};
    }
    const std::string_view bytes(address.sun_path, length - kHeader);
    if (bytes.front() == '\0') {
        std::string name("@");
        name.append(bytes.substr(1));
        return name;
    }
    return std::string(bytes.substr(0, bytes.find('\0')));
}

}  // namespace vmthaw
