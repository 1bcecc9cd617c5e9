#include "source/socket/socket_address.hpp"

#include <netdb.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>
#include <string_view>

#include "base/error.hpp"
#include "base/unix_address.hpp"

namespace vmthaw {
namespace {

constexpr std::string_view kForms =
    "; write unix:/path, unix:@name (abstract), tcp:host:port or tcp:[IPv6 address]:port";

[[noreturn]] void refuse_address(const std::string& text, const std::string& why) {
    throw ArgumentError("\"" + text + "\" is no address of a page server: " + why + std::string(kForms));
}

std::uint16_t port_of(const std::string& text, std::string_view digits) {
    std::uint16_t port = 0;
    const auto [end, problem] = std::from_chars(digits.data(), digits.data() + digits.size(), port);
    if (digits.empty() || problem != std::errc{} || end != digits.data() + digits.size()) {
        refuse_address(text, "the port \"" + std::string(digits) + "\" is no number from 0 to 65535");
    }
    return port;
}

}  // namespace

SocketAddress SocketAddress::parse(const std::string& text) {
    SocketAddress address;
    if (text.find('\0') != std::string::npos) {
        throw ArgumentError("the address of a page server holds a NUL byte" + std::string(kForms));
    }
    const bool is_path = text.starts_with('/');
    if (is_path || text.starts_with("unix:")) {
        address.path_ = is_path ? text : text.substr(5);
        if (address.path_.empty()) {
            refuse_address(text, "the path is missing");
        }
        static_cast<void>(UnixAddress::of(address.path_));  // throws when it is too long
        return address;
    }
    if (!text.starts_with("tcp:")) {
        refuse_address(text, "it begins with neither unix: nor tcp:");
    }
    const std::string_view rest = std::string_view(text).substr(4);
    const std::size_t colon = rest.rfind(':');
    if (colon == std::string_view::npos || colon + 1 == rest.size() || rest.ends_with(']')) {
        refuse_address(text, "the port is missing");
    }
    std::string_view host = rest.substr(0, colon);
    const bool has_brackets = host.size() >= 2 && host.starts_with('[') && host.ends_with(']');
    if (has_brackets) {
        host = host.substr(1, host.size() - 2);
    } else if (host.find_first_of(":[]") != std::string_view::npos) {
        refuse_address(text, "an IPv6 address needs brackets");
    }
    if (host.empty()) {
        refuse_address(text, "the host is missing");
    }
    address.host_ = std::string(host);
    address.port_ = port_of(text, rest.substr(colon + 1));
    return address;
}

std::string SocketAddress::text() const {
    if (is_unix()) {
        return "unix:" + path_;
    }
    const bool is_ipv6 = host_.find(':') != std::string::npos;
    return "tcp:" + (is_ipv6 ? "[" + host_ + "]" : host_) + ":" + std::to_string(port_);
}

SocketAddress SocketAddress::with_port(std::uint16_t port) const {
    SocketAddress result = *this;
    result.port_ = port;
    return result;
}

std::vector<ResolvedAddress> SocketAddress::resolve() const {
    std::vector<ResolvedAddress> result;
    if (is_unix()) {
        const UnixAddress address = UnixAddress::of(path_);
        std::memcpy(&result.emplace_back().storage, address.get(), address.length());
        result.back().length = address.length();
        return result;
    }
    addrinfo hints{};
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_NUMERICSERV;
    addrinfo* first = nullptr;
    const int problem = ::getaddrinfo(host_.c_str(), std::to_string(port_).c_str(), &hints, &first);
    const int saved = errno;
    const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(first, &::freeaddrinfo);
    if (problem != 0) {
        throw SystemError(problem == EAI_SYSTEM ? saved : EADDRNOTAVAIL, "looking up the host of " + text(),
                          std::string(::gai_strerror(problem)) + "; check the name, or give a numeric address");
    }
    for (const addrinfo* info = first; info != nullptr; info = info->ai_next) {
        if (info->ai_addrlen <= sizeof(sockaddr_storage)) {
            std::memcpy(&result.emplace_back().storage, info->ai_addr, info->ai_addrlen);
            result.back().length = info->ai_addrlen;
        }
    }
    if (result.empty()) {
        throw SystemError(EADDRNOTAVAIL, "looking up the host of " + text(), "it has no address");
    }
    return result;
}

}  // namespace vmthaw
