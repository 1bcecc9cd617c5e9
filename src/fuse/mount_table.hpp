#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace vmthaw {

// One line of /proc/self/mountinfo. Reading it asks no file system anything, so a hung server holds nobody up.
struct MountEntry {
    std::uint64_t id = 0;
    std::uint32_t device_major = 0;
    std::uint32_t device_minor = 0;
    std::string mount_point;
    std::string type;
    std::string source;
};

// Lines that are no mounts are left out. Pure.
[[nodiscard]] std::vector<MountEntry> parse_mount_table(std::string_view text);
// What is mounted on exactly this path, the uppermost if several are. Throws SystemError without /proc.
[[nodiscard]] std::optional<MountEntry> topmost_mount(const std::string& mount_point);

}  // namespace vmthaw
