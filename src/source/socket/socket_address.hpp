#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <vector>

namespace vmthaw {

// One address as the kernel takes it.
struct ResolvedAddress {
    sockaddr_storage storage{};
    socklen_t length = 0;
    [[nodiscard]] const sockaddr* get() const noexcept { return reinterpret_cast<const sockaddr*>(&storage); }
    [[nodiscard]] int family() const noexcept { return storage.ss_family; }
};

// Where a page server listens, as people write it: "unix:/path", "unix:@abstract", a bare "/path", "tcp:host:port" or
// "tcp:[2001:db8::1]:port". A plain value; parse() throws ArgumentError, which says what is wrong.
class SocketAddress {
public:
    [[nodiscard]] static SocketAddress parse(const std::string& text);

    [[nodiscard]] bool is_unix() const noexcept { return host_.empty(); }
    [[nodiscard]] const std::string& path() const noexcept { return path_; }  // of a UNIX socket
    [[nodiscard]] const std::string& host() const noexcept { return host_; }  // without brackets
    [[nodiscard]] std::uint16_t port() const noexcept { return port_; }
    // The canonical text; parse() of it gives the same address.
    [[nodiscard]] std::string text() const;
    [[nodiscard]] SocketAddress with_port(std::uint16_t port) const;

    // Asks the resolver, and so may block. Never empty. Throws SystemError when the name is unknown.
    [[nodiscard]] std::vector<ResolvedAddress> resolve() const;

private:
    std::string path_;
    std::string host_;
    std::uint16_t port_ = 0;
};

}  // namespace vmthaw
