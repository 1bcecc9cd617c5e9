#include "fuse/mount_table.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstddef>

#include "base/error.hpp"
#include "base/unique_fd.hpp"

namespace vmthaw {
namespace {

constexpr std::size_t kOctalDigits = 3;

bool is_octal(std::string_view digits) {
    return digits.size() == kOctalDigits && digits.find_first_not_of("01234567") == std::string_view::npos;
}

// The kernel writes blanks, tabs, line ends and backslashes of paths as \ooo.
std::string unescaped(std::string_view text) {
    std::string result;
    while (!text.empty()) {
        if (text.front() == '\\' && is_octal(text.substr(1, kOctalDigits))) {
            unsigned value = 0;
            std::from_chars(text.data() + 1, text.data() + 1 + kOctalDigits, value, 8);
            result.push_back(static_cast<char>(value));
            text.remove_prefix(1 + kOctalDigits);
        } else {
            result.push_back(text.front());
            text.remove_prefix(1);
        }
    }
    return result;
}

std::vector<std::string_view> words_of(std::string_view line) {
    std::vector<std::string_view> words;
    while (!line.empty()) {
        const std::size_t end = line.find(' ');
        words.push_back(line.substr(0, end));
        line = end == std::string_view::npos ? std::string_view() : line.substr(end + 1);
    }
    return words;
}

template <typename Number>
bool read_number(std::string_view text, Number& number) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    return error == std::errc() && end == text.data() + text.size();
}

// "36 35 98:0 /root /mount\040point rw,noatime master:1 - ext4 /dev/root rw": optional fields end at the dash.
std::optional<MountEntry> parse_mount(std::string_view line) {
    constexpr std::size_t kFixedFields = 6;
    const std::vector<std::string_view> words = words_of(line);
    std::size_t dash = kFixedFields;
    while (dash < words.size() && words[dash] != "-") {
        ++dash;
    }
    if (dash + 2 >= words.size()) {
        return std::nullopt;
    }
    MountEntry entry;
    const std::string_view device = words[2];
    const std::size_t colon = device.find(':');
    if (colon == std::string_view::npos || !read_number(words[0], entry.id) ||
        !read_number(device.substr(0, colon), entry.device_major) ||
        !read_number(device.substr(colon + 1), entry.device_minor)) {
        return std::nullopt;
    }
    entry.mount_point = unescaped(words[4]);
    entry.type = unescaped(words[dash + 1]);
    entry.source = unescaped(words[dash + 2]);
    return entry;
}

std::string read_mountinfo() {
    constexpr std::size_t kPiece = 16384;
    const UniqueFd file(
        check_errno(::open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC), "open(/proc/self/mountinfo)"));
    std::string text;
    std::array<char, kPiece> piece{};
    for (;;) {
        const ssize_t got = ::read(file.get(), piece.data(), piece.size());
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (check_errno_long(got, "read(/proc/self/mountinfo)") == 0) {
            return text;
        }
        text.append(piece.data(), static_cast<std::size_t>(got));
    }
}

}  // namespace

std::vector<MountEntry> parse_mount_table(std::string_view text) {
    std::vector<MountEntry> entries;
    while (!text.empty()) {
        const std::size_t end = text.find('\n');
        if (auto entry = parse_mount(text.substr(0, end))) {
            entries.push_back(std::move(*entry));
        }
        text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
    }
    return entries;
}

std::optional<MountEntry> topmost_mount(const std::string& mount_point) {
    std::optional<MountEntry> found;
    for (MountEntry& entry : parse_mount_table(read_mountinfo())) {
        if (entry.mount_point == mount_point) {
            found = std::move(entry);  // later lines lie above earlier ones
        }
    }
    return found;
}

}  // namespace vmthaw
