#include "dax/dax_log.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "base/log.hpp"

namespace vmthaw {
namespace {

// Never closed: a session may log while the process exits.
int trace_fd() noexcept {
    static const int fd = open_dax_trace(std::getenv("VMTHAW_DAX_TRACE"));
    return fd;
}

const char* name_of(DaxEventKind kind) noexcept {
    switch (kind) {
        case DaxEventKind::set_up:
            return "set_up";
        case DaxEventKind::replace:
            return "replace";
        case DaxEventKind::remove:
            return "remove";
        case DaxEventKind::evict:
            return "evict";
        case DaxEventKind::lost:
            return "lost";
        case DaxEventKind::reset:
            break;
    }
    return "reset";
}

}  // namespace

int open_dax_trace(const char* value) noexcept {
    if (value == nullptr || *value == '\0') {
        return -1;
    }
    if (std::string_view(value) == "stderr") {
        return ::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
    }
    constexpr mode_t kMode = 0644;
    return ::open(value, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, kMode);
}

bool dax_log_is_on() noexcept { return trace_fd() >= 0 || log_level() == LogLevel::debug; }

void log_dax_event(const DaxRecord& event) noexcept {
    std::array<char, LogRecord::kTextBytes> text{};
    const int length = std::snprintf(
        text.data(), text.size(), "%s guest 0x%" PRIx64 "+0x%" PRIx64 " node %" PRIu64 " file 0x%" PRIx64 " %s%s: %d",
        name_of(event.kind), event.guest_address, event.length_bytes, event.node, event.file_offset,
        (event.prot & 1U) != 0 ? "r" : "-", (event.prot & 2U) != 0 ? "w" : "-", static_cast<int>(event.error));
    const std::string_view line(text.data(), static_cast<std::size_t>(length > 0 ? length : 0));
    log_line(LogLevel::debug, "dax", line);
    if (trace_fd() >= 0) {
        std::array<char, LogRecord::kTextBytes + 64> whole{};
        const int bytes =
            std::snprintf(whole.data(), whole.size(), "%" PRIu64 ".%06" PRIu64 " DEBUG vmthaw.dax %s\n",
                          event.t_done_ns / 1'000'000'000, event.t_done_ns / 1000 % 1'000'000, line.data());
        static_cast<void>(::write(trace_fd(), whole.data(), static_cast<std::size_t>(bytes)));
    }
}

}  // namespace vmthaw
