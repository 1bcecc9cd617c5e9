#include "testing/fake_handover.hpp"

#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <ctime>
#include <string_view>

#include "base/error.hpp"
#include "base/send_descriptors.hpp"

namespace vmthaw::testing {
namespace {

UniqueFd connect_to(const std::string& path, std::uint64_t timeout_ns) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.empty() || path.size() >= sizeof address.sun_path) {
        throw ArgumentError("the socket path is empty or too long: " + path);
    }
    std::memcpy(address.sun_path, path.data(), path.size());
    std::size_t length = offsetof(sockaddr_un, sun_path) + path.size() + 1;
    if (path.front() == '@') {
        address.sun_path[0] = '\0';
        --length;
    }
    UniqueFd socket(check_errno(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket(AF_UNIX)"));
    // Bounds connect(2) on a full queue as well.
    timeval limit{};
    limit.tv_sec = static_cast<time_t>(timeout_ns / 1'000'000'000U);
    limit.tv_usec = static_cast<suseconds_t>(timeout_ns % 1'000'000'000U / 1000U);
    check_errno(::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit), "setsockopt(SO_SNDTIMEO)");
    if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), static_cast<socklen_t>(length)) != 0) {
        const int saved = errno;
        throw SystemError(saved, "connecting to " + path, "is the page server running?");
    }
    return socket;
}

UniqueFd other_descriptor() {
    return UniqueFd(static_cast<int>(
        check_errno_long(::syscall(__NR_memfd_create, "vmthaw-not-a-userfaultfd", 1U), "memfd_create")));
}

}  // namespace

std::string handover_text(const FakeVmmMemory& memory, PageSizeFields fields, bool unknown_fields) {
    const std::string page_size = std::to_string(memory.page_size());
    std::string text = "[";
    for (const FakeRegion& region : memory.regions()) {
        text += text.size() > 1 ? "," : "";
        text += "{\"base_host_virt_addr\":" + std::to_string(region.host_address) +
                ",\"size\":" + std::to_string(region.size) + ",\"offset\":" + std::to_string(region.file_offset);
        if (fields == PageSizeFields::both || fields == PageSizeFields::page_size) {
            text += ",\"page_size\":" + page_size;
        }
        if (fields == PageSizeFields::both || fields == PageSizeFields::page_size_kib) {
            text += ",\"page_size_kib\":" + page_size;  // bytes all the same: the field's name is wrong, not its value
        }
        if (unknown_fields) {
            text += R"(,"gpa_start":0,"is_guest_memfd":false,"notes":{"size":-1.5,"tags":["]","}",null]})";
        }
        text += "}";
    }
    return text + "]";
}

UniqueFd send_handover(const std::string& socket_path, const FakeVmmMemory& memory,
                       const FakeHandoverOptions& options) {
    const std::string text =
        options.text ? *options.text : handover_text(memory, options.page_size_fields, options.unknown_fields);
    std::vector<UniqueFd> others;
    std::vector<int> descriptors;
    if (options.descriptor == SentDescriptor::userfaultfd) {
        descriptors.push_back(memory.userfaultfd());
    }
    const std::uint64_t other_count =
        options.surplus_descriptors + (options.descriptor == SentDescriptor::memfd ? 1U : 0U);
    for (std::uint64_t i = 0; i < other_count; ++i) {
        others.push_back(other_descriptor());
        descriptors.push_back(others.back().get());
    }
    std::vector<std::uint64_t> starts{0};
    for (const std::uint64_t split : options.splits) {
        if (split <= starts.back() || split >= text.size()) {
            throw ArgumentError("splits must ascend and lie inside the message of " + std::to_string(text.size()) +
                                " bytes");
        }
        starts.push_back(split);
    }
    UniqueFd socket = connect_to(socket_path, options.timeout_ns);
    for (std::size_t part = 0; part < starts.size(); ++part) {
        if (part > 0 && options.part_delay_ns > 0) {
            const timespec pause{static_cast<time_t>(options.part_delay_ns / 1'000'000'000U),
                                 static_cast<long>(options.part_delay_ns % 1'000'000'000U)};
            ::nanosleep(&pause, nullptr);
        }
        const std::uint64_t end = part + 1 < starts.size() ? starts[part + 1] : text.size();
        send_descriptors(socket.get(), std::string_view(text).substr(starts[part], end - starts[part]),
                         part == options.descriptor_part ? descriptors : std::vector<int>{});
    }
    if (options.close_afterwards) {
        socket.reset();
    }
    return socket;
}

}  // namespace vmthaw::testing
